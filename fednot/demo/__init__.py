"""The demonstration: real digits, a backdoored client, and what each method does about it."""
