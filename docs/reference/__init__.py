"""The reference pages' text, made of the code itself: what is not written twice cannot differ."""
