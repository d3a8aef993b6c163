"""Reports for people: they render values to whatever rich console they are given, and print nothing themselves."""
