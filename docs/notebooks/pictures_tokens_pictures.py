# %% [markdown]
# # From pictures to tokens to new pictures
#
# A tokenizer turns a picture into a few whole numbers. A transformer learns which numbers follow which. What it then writes, the
# tokenizer turns into new pictures. Here are both stages in less than a minute, on the handwritten digits that come with
# scikit-learn.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch import Trainer
from sklearn.datasets import load_digits

from gmvq.data import DataRecipe
from gmvq.prior import Filters, fit_prior
from gmvq.tokens import TokenDataset, encode_dataset, statistics
from gmvq.training import ImageDataModule, TokenizerModule

_ = torch.manual_seed(0)

# %% [markdown]
# ## The pictures
#
# 1,797 digits of 8 x 8 pixels, enlarged to 16 x 16. Any folder of images would do as well: [what data is read](../data.md).

# %%
digits = load_digits()
pictures = np.kron(digits.images / 16 * 255, np.ones((1, 2, 2))).astype(np.uint8)
np.save("digits.npy", pictures)
print(pictures.shape, pictures.dtype)


def show(images: torch.Tensor, rows: int, title: str) -> None:
    """Pictures (N, 1, H, W) in a grid, with a line between them."""
    images = torch.nn.functional.pad(images.clamp(0, 1), (1, 1, 1, 1), value=0.5)
    count, _, height, width = images.shape
    grid = images.view(rows, count // rows, height, width).permute(0, 2, 1, 3).reshape(rows * height, -1)
    plt.figure(figsize=(6, 6 * rows * rows / count + 0.4))
    plt.imshow(grid, cmap="gray")
    plt.title(title)
    plt.axis("off")
    plt.show()


# %% [markdown]
# ## A tokenizer
#
# `gmvq fit --data.path digits.npy` does this and more. One token stands for 4 x 4 pixels, so a picture becomes 16 tokens.

# %%
module = TokenizerModule("tiny", channels=1, codebook_size=64, lr=8e-3)
data = ImageDataModule("digits.npy", size=16, channels=1, flip=False)
quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
trainer = Trainer(max_steps=150, logger=False, use_distributed_sampler=False, **quiet)
trainer.fit(module, data)
model = module.model.eval()

# %%
test = data.dataset("test")
images = torch.stack([test[index] for index in range(32)])
tokens = model.encode(images)
reconstruction = model.decode(tokens)
print("one picture as tokens:\n", tokens[0])
print(f"mean squared error {((reconstruction - images) ** 2).mean():.4f}")
show(
    torch.cat([images[:16], reconstruction[:16]]), 2, "test pictures above, what 16 tokens keep of them below"
)

# %% [markdown]
# ## The data set as tokens
#
# `gmvq encode` writes shards of Parquet, with a manifest; a run that was killed goes on where it was.

# %%
encode_dataset(model, DataRecipe("digits.npy", size=16, channels=1), "tokens")
found = statistics("tokens")
print(f"{found.rows} pictures, {found.bits_per_image:.0f} bits for each by the entropy of single codes")
indices = torch.stack([torch.as_tensor(row["indices"]) for row in TokenDataset("tokens")])
print(indices.shape, indices.dtype)

# %% [markdown]
# ## A prior over the tokens, and new pictures
#
# The digit is the label, so that we can ask for one. `gmvq prior fit tokens` is the same on the command line.

# %%
targets = torch.as_tensor(digits.target)
learned, held_out = slice(0, 1500), slice(1500, None)
options = {"steps": 120, "batch_size": 48, "lr": 4e-3}
prior = fit_prior(indices[learned], codebook_size=64, labels=targets[learned], **options)
nats = prior.nats(indices[held_out], targets[held_out]).mean()
print(f"{nats / np.log(2):.0f} bits for a picture that the prior has not seen")

# %%
labels = torch.arange(10).repeat_interleave(10)
new = model.decode(prior.sample(100, labels=labels, filters=Filters(temperature=0.9), seed=0))
show(new, 10, "ten new pictures of each digit")

# %% [markdown]
# From here: [tokens](../tokens.md) for large data sets, [generation](../generation.md) for guidance, masked priors and FID,
# [rate and distortion](../rate_distortion.md) for what the bits buy.
