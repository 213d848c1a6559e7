"""The inspect page: what a server knows, as HTML for people. No script, and nothing that another host has."""
