"""The documentation: pages for people, and in `site` the code that makes a site of them."""
