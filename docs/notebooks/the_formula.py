# %% [markdown]
# # The formula, step by step, in float64
#
# The model behind the layer, computed by hand on an example that is small enough to know everything about: six images of one
# number each, one latent position, one feature, three codes. Each step is compared with what the library computes.
# [The mathematics](../mathematics.md) has the derivations.

# %%
import math

import matplotlib.pyplot as plt
import torch

from gmvq.functional.divergences import categorical_kl, entropy, gaussian_kl
from gmvq.functional.mixture import adaptive_variance, mixture_logits
from gmvq.objectives import GaussianLikelihood, LatentModel, albo, elbo

torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
close = torch.testing.assert_close

# %% [markdown]
# ## 1. The generative model
#
# $$ c \sim \mathrm{Cat}(\pi), \qquad z \mid c \sim N(\mu_c, s_z^2), \qquad x \mid z \sim N(z, s_x^2) . $$
#
# Codes at -1, 0 and 1, all equally probable, $s_z = s_x = 0.3$, and a decoder that hands $z$ on as it is. The sum of two Gaussians
# is a Gaussian, so $\log p(x)$ is known exactly: a mixture of three Gaussians of variance $s_z^2 + s_x^2$.

# %%
codebook = torch.tensor([[-1.0], [0.0], [1.0]])
log_pi = torch.full((3,), -math.log(3))
s_z, s_x = 0.3, 0.3
x = torch.tensor([-1.2, -0.9, -0.3, 0.1, 0.8, 1.1])


def log_normal(value: torch.Tensor, mean: torch.Tensor, variance: float) -> torch.Tensor:
    return -0.5 * (math.log(2 * math.pi * variance) + (value - mean) ** 2 / variance)


log_p = torch.logsumexp(log_pi + log_normal(x[:, None], codebook[:, 0], s_z**2 + s_x**2), 1)
print("log p(x) =", log_p)

# %% [markdown]
# ## 2. The posterior over codes
#
# With an encoder that hands $x$ on as it is, $\hat z = x$, and precision $w = 1 / s_z^2$:
#
# $$ q(c \mid x) = \mathrm{softmax}_c \Big( \log \pi_c - \tfrac12 w (\hat z - \mu_c)^2 \Big) . $$
#
# The layer leaves out $\tfrac12 w \hat z^2$, which all codes share, so that one product of matrices gives all logits.

# %%
w = 1 / s_z**2
distance = (x[:, None] - codebook[:, 0]) ** 2
q = torch.softmax(log_pi - 0.5 * w * distance, 1)

log_w = torch.tensor([math.log(w)])
close(q, mixture_logits(x[:, None], codebook, log_w, log_pi).softmax(-1))
print(q)

# %%
line = torch.linspace(-2, 2, 400)
curves = mixture_logits(line[:, None], codebook, log_w, log_pi).softmax(-1)
plt.figure(figsize=(7, 2.5))
plt.plot(line, curves, label=["code -1", "code 0", "code 1"])
plt.plot(x, q.max(1).values, "k.", label="the six images")
plt.xlabel("x")
plt.ylabel("q(c | x)")
plt.legend()
plt.show()

# %% [markdown]
# ## 3. How unsure a code is
#
# $q(z \mid x, c) = N(\mu_c, s_c^2(x))$ with $s_c^2(x) = (\hat z - \mu_c)^2 / (2 \sigma^2 D)$: on its codeword a code is sure, far
# from it unsure. Here $\sigma = D = 1$.

# %%
variance = distance / 2
close(variance, adaptive_variance(distance, dim=1))

# %% [markdown]
# ## 4. The terms of the bound, in nats
#
# $$ \mathrm{ELBO}(x) = E_q \log p(x \mid z) - \sum_c q(c \mid x) \, \mathrm{KL}\big(q(z \mid x, c) \,\Vert\, p(z \mid c)\big)
# - \mathrm{KL}\big(q(c \mid x) \,\Vert\, \pi\big) . $$
#
# All three are known in closed form: the expected squared error of a Gaussian is its squared bias and its variance; the KL of two
# Gaussians of one mean depends on the ratio $\rho = s_c^2 w$ alone, $\tfrac12 (\rho - 1 - \log \rho)$; the last is a sum of three.

# %%
fit = (q * (log_normal(x[:, None], codebook[:, 0], s_x**2) - 0.5 * variance / s_x**2)).sum(1)
rho = variance * w
latent = (q * 0.5 * (rho - 1 - rho.log())).sum(1)
categorical = (q * (q.log() - log_pi)).sum(1)

close(latent, (q * gaussian_kl(variance, log_w, dim=1)).sum(1))
close(categorical, categorical_kl(q, log_pi))
bound = fit - latent - categorical
print("ELBO       =", bound)
print("log p(x)   =", log_p)
assert (bound <= log_p).all()

# %% [markdown]
# The library's `elbo` has the same KL terms, and draws samples for the first one. 20,000 of them agree within their error:

# %%
model = LatentModel(codebook, log_w, log_pi, code_log_variance=lambda d: adaptive_variance(d, 1).log())
arguments = (model, x[:, None], x[:, None], lambda z: z, GaussianLikelihood(s_x).double())
found = elbo(*arguments, samples=20_000, generator=torch.Generator().manual_seed(0))
close(found.latent, latent)
close(found.categorical, categorical)
close(found.log_likelihood, fit, atol=0.03, rtol=0.0)
print("sampled    =", found.value)

# %% [markdown]
# ## 5. The aggregated posterior
#
# Training replaces $q(c \mid x)$ in the last term by its mean $\bar q$ over the images. A sharp posterior then costs nothing as long
# as all codes are used. The replacement changes the mean by exactly the mutual information
# $I_q = H(\bar q) - \mathrm{mean}\, H(q(c \mid x))$, which is at most $\log K$:
#
# $$ \mathrm{mean}\, \mathrm{KL}(q \,\Vert\, \pi) = I_q + \mathrm{KL}(\bar q \,\Vert\, \pi) . $$

# %%
q_bar = q.mean(0)
information = entropy(q_bar) - entropy(q).mean()
close(categorical.mean(), information + categorical_kl(q_bar, log_pi))

aggregated = fit - latent - categorical_kl(q_bar, log_pi)
close(
    albo(*arguments, generator=torch.Generator().manual_seed(0)).categorical.mean(),
    categorical_kl(q_bar, log_pi),
)
print(f"q_bar                  {q_bar}")
print(f"mean log p(x)          {log_p.mean():8.4f}")
print(f"mean ELBO              {bound.mean():8.4f}   a bound")
print(f"mean ALBO              {aggregated.mean():8.4f}   the ELBO and I_q = {information:.4f}")
print(f"mean ALBO - log K      {aggregated.mean() - math.log(3):8.4f}   a bound, too")
assert aggregated.mean() - math.log(3) <= bound.mean() <= log_p.mean()

# %% [markdown]
# ## 6. A gradient
#
# The decoder reads the most probable codeword, in training as in eval. So that its choice has a gradient, it is given that of the
# posterior's mean, $\sum_c q(c \mid x) \mu_c$ (a straight-through Gumbel-softmax without noise, at temperature 1). With respect to
# $\hat z$ this is the variance of the codewords under $q$, times $w$:

# %%
z = x.clone().requires_grad_()
weights = mixture_logits(z[:, None], codebook, log_w, log_pi).softmax(-1)
(weights @ codebook).sum().backward()
mean = (q * codebook[:, 0]).sum(1)
by_hand = w * ((q * codebook[:, 0] ** 2).sum(1) - mean**2)
close(z.grad, by_hand)
print("gradient =", z.grad)

# %% [markdown]
# It is largest between two codes and nearly zero on a codeword: there the choice is settled. What reaches the encoder there is the
# gradient at the codeword itself, straight through and less a share of what it has along the quantization error, and that of the
# commitment ([the precision](../mathematics.md#7-the-precision)).
