"""Late fusions: what is left to do at request time. Torch-free, except `twins`, which training imports."""
