"""Places that artefacts are copied to and from: one file per remote, all behind the contract in `contract`.

A remote knows names, bytes and nothing else. What travels, in which order and how it is checked on arrival is the business of the
cache and of a run's synchronisation.
"""
