"""The tables and pictures of `ls`, `stat`, `who` and `map`: a module each. They print nothing."""
