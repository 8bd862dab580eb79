"""Who is who: certificates, the private authority that signs them, and what is trusted.

An identity is a role and a name in a trust domain, carried as a SPIFFE id in a certificate's URI
subject alternative name (https://github.com/spiffe/spiffe, X509-SVID). Only this package imports
`cryptography`.
"""
