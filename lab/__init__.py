"""The paper's study on the product's own coordinator; nothing imports it."""
