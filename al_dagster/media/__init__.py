"""Reading and checking the files that people put in: what is in an inbox, what an image holds, what is unreadable."""
