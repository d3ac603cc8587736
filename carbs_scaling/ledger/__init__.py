"""The ledger of a study: trials, records, identity, history and loss curves."""
