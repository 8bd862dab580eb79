"""Secure aggregation: the sum of updates without any single one (Bonawitz et al., CCS 2017).

The version of the paper against an active server (figure 4). Its steps for one *attempt* at
masking a round, of n clients in the cohort with a threshold t:

1. Each client makes two X25519 key pairs, signs the public halves with the key of its certificate,
   and gets everybody's (`AdvertiseKeys`).
2. It draws a seed, and cuts the seed and its private mask key into shares of which t rebuild them
   (Shamir 1979). Each of the others gets a share of both, encrypted to it (`ShareKeys`).
3. Its update becomes integers modulo 2^32 (`ring`). It adds the stream of its seed, and for each
   other client the stream of the key that the two agree on: one of the two adds it, the other
   subtracts it. So all pairwise streams cancel out in the sum. It uploads what comes of it.
4. It is told whose uploads arrived, signs that list, and goes on once t clients signed the same
   one (`ConfirmSurvivors`): else a server could show different lists to get both secrets of a
   client.
5. It reveals a share of the seed of each client that arrived, and of the mask key of each that did
   not (`Unmask`), never both of one. With t shares the server takes off what is left in the sum.

The bytes, so that any language can take part. H is SHA-256, HKDF is HKDF-SHA256 with an output of
32 bytes and the attempt as salt. `text` is each of its parts with its length before it, as 4
bytes, little-endian. Names and `info` are UTF-8, numbers are in decimal, lists are sorted.

- *terms*: H(text("fednot masked round 1", attempt, round, version, generation, threshold,
  value_range as a C hexadecimal float, most_examples, each name of the cohort)).
- *signed keys*: text("fednot masked keys 1", terms, client, cipher key, mask key), by ECDSA with
  SHA-256, DER. *signed survivors*: text("fednot survivors 1", terms, each name).
- *shares*: numbers modulo p = 2^256 + 297, 33 bytes, little-endian; a secret is the polynomial at
  0, a client's share is it at the client's place in the sorted roster, counted from 1.
- *encrypted share*: a nonce of 12 random bytes, then ChaCha20-Poly1305 over the share of the seed
  and that of the mask key; the key is HKDF(X25519 of the cipher keys, info text("cipher", smaller
  name, larger name)), the associated data text("fednot share 1", terms, from, to).
- *stream*: ChaCha20 (RFC 8439) of zeros with counter and nonce 0, read as little-endian uint32.
  Its key is HKDF(seed, info text("seed", client)), or HKDF(X25519 of the mask keys, info
  text("pair", smaller name, larger name)); of a pair the smaller name adds it, the larger
  subtracts it.
- *payload*: `ring.Masked`; the masks go over all of it, the zeros at its end too.
"""
