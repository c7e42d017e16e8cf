# %% [markdown]
# # A tokenizer without training one
#
# Four trained models are a package of their own: `pip install ./models` in a clone. They are small, made in minutes on a CPU, and enough
# to see what tokens are. Here one of them takes a photograph apart, and a prior writes emoji. Nothing is trained or downloaded.

# %%
import matplotlib.pyplot as plt
import torch
from skimage.data import astronaut

from gmvq import VQAutoencoder
from gmvq.prior import Filters, TokenPrior


def show(*pictures: torch.Tensor, titles: tuple[str, ...] = ()) -> None:
    """Pictures (3, H, W) or maps (H, W) side by side."""
    _, axes = plt.subplots(1, len(pictures), figsize=(3.6 * len(pictures), 3.9), squeeze=False)
    for axis, picture, title in zip(axes[0], pictures, titles or ("",) * len(pictures), strict=True):
        axis.imshow(picture.clamp(0, 1).permute(1, 2, 0) if picture.ndim == 3 else picture, cmap="magma")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    plt.tight_layout()
    plt.show()


# %% [markdown]
# ## A photograph as tokens
#
# The model has learned from thirteen other photographs, in tiles of 32 pixels. A picture may have any size whose sides are multiples of four.

# %%
model = VQAutoencoder.from_pretrained("builtin:photos")
image = torch.from_numpy(astronaut()).permute(2, 0, 1)[None] / 255
tokens, log_variance = model.encode(image, return_log_variance=True)
reconstruction = model.decode(tokens)
mse = ((reconstruction - image) ** 2).mean()
print(f"{tuple(image.shape)} -> {tuple(tokens.shape)}, {tokens.unique().numel()} different codes of 256")
print(f"half a bit per pixel in place of 24, PSNR {-10 * mse.log10():.1f} dB")

# %% [markdown]
# Where a code is unsure, the adaptive variance of its position is large ([what it knows](../uncertainty.md)).

# %%
show(
    image[0],
    reconstruction[0],
    log_variance[0],
    titles=("the photograph", "what 16,384 tokens keep of it", "log of the adaptive variance"),
)

# %% [markdown]
# ## Tokens can be moved like tiles
#
# Each stands for 4 x 4 pixels and a little of what lies around them. Mirror the tokens, and the decoder draws the mirror image of the
# scene, though not of the strokes inside of a token. Keep every code that occurs often, and write the nearest of them for the rest:

# %%
codebook = model.quantizer.get_codes_from_indices(torch.arange(256))
common = tokens.flatten().bincount(minlength=256).topk(32).indices
nearest = common[torch.cdist(codebook, codebook[common]).argmin(1)]
show(
    model.decode(tokens.flip(2))[0],
    model.decode(nearest[tokens])[0],
    titles=("tokens mirrored", "32 of the 256 codes"),
)

# %% [markdown]
# ## New pictures
#
# `builtin:emoji-prior` is a transformer that has read the tokens of emoji. It writes 64 tokens, and `builtin:emoji` draws what they mean.
# Both are small; what they draw has the colours and outlines of emoji, and seldom their sense.

# %%
emoji, prior = (
    VQAutoencoder.from_pretrained("builtin:emoji"),
    TokenPrior.from_pretrained("builtin:emoji-prior"),
)
drawn = emoji.decode(prior.sample(32, filters=Filters(temperature=0.9, top_p=0.95), seed=0))
show(drawn.unflatten(0, (4, 8)).permute(2, 0, 3, 1, 4).reshape(3, 4 * 64, 8 * 64))

# %% [markdown]
# On the command line: `gmvq reconstruct builtin:photos photo.jpg --out out --maps`, `gmvq app builtin:photos`,
# `gmvq sample builtin:emoji-prior --n 64 --out new`. To train one of your own:
# [from pictures to tokens to new pictures](pictures_tokens_pictures.md).
