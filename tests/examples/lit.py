"""A LightningModule and its LightningDataModule: nothing here knows of scalebench."""

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split


class LitRegression(L.LightningModule):
    def __init__(self, width: int = 32, lr: float = 1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.ModuleList(
            [nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 8)) for _ in range(3)]
        )
        self.head = nn.Linear(8, 1)

    def layer(self, width):
        return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 8))

    def forward(self, x):
        for layer in self.body:
            x = x + layer(x)
        return self.head(x).squeeze(-1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        error = (self(x) - y).abs().mean()
        self.log_dict({"val_loss": F.mse_loss(self(x), y), "val_error": error})

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=0.05)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class SumsData(L.LightningDataModule):
    def __init__(self, samples: int = 256, batch_size: int = 16):
        super().__init__()
        self.samples, self.batch_size = samples, batch_size

    def prepare_data(self):
        print("preparing")

    def setup(self, stage=None):
        x = torch.randn(self.samples, 8)
        whole = TensorDataset(x, x.sum(1))
        self.train, self.val = random_split(whole, [0.8, 0.2])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.batch_size)


def both(width: int = 32, samples: int = 256):
    return LitRegression(width), SumsData(samples)
