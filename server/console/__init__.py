"""The console: a few pages for a browser, behind the same identities and rules as the calls."""
