"""A study's folder to tables, figures and a page; reads files only."""
