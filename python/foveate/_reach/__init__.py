"""Which keys a query sees: the keywords of a reach, checked, and rules reduced."""
