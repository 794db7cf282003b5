"""What the site has beyond plain Sphinx, each in one file. CONTRIBUTING.md, *The site*, has the reasons."""
