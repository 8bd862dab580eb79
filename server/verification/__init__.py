"""Verification: does the recovered model still know what was to be forgotten?"""
