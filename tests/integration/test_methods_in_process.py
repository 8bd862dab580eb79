"""Every method through production's coordinator, over a cohort in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.in_process import InProcessFederation, in_process
from support.small_digits import digits_task

from server.blocks import Block
