"""What Forebay's models are measured against, each as good as it can be made: a baseline that is a straw man proves nothing."""
