"""Training under differential privacy: DP-SGD (Abadi et al., CCS 2016) and what it has spent.

`costs` and `accounting` say what steps cost, `sgd` takes them; those two need the extra `privacy`
(Opacus), `suitability` says whether a model can be trained so.
"""
