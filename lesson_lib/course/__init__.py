"""The teaching half: what the notebooks use on top of the library, and no other user needs."""
