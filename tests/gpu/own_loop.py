"""A hand-written loop on the GPU whose dropout draws from the GPU's generator: `own_loop.py FOLDER [STEP TO DIE AT]`."""

import os
import random
import signal
import sys

import numpy as np
import torch

from unbroken import Checkpointer

DEVICE = "cuda"


def main(folder: str, dies_at: int) -> None:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 256), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(256, 1)
    ).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    checkpoints = Checkpointer(folder, save_every=20)
    checkpoints.track(model=model, optimizer=optimizer)
    for step in checkpoints.steps(200):
        loss = (model(torch.randn(64, 16, device=DEVICE)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == dies_at:
            checkpoints.close()
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.save_if_due()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else -1)
