"""`unbroken prove`: a user's own training, undisturbed and killed again and again, compared step by step and part by part (A18)."""
