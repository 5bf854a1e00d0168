"""The paper's current system (v1): learning rates, Adam's β1, loss weights and sampling policy."""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from raygan.cli import run_search
from raygan.presets import PAPER_V0, PAPER_V1
from raygan.search.experiment import Search
from raygan.search.space import When

SEARCH = Search(
    name="v1",
    config=PAPER_V1,
    space={
        "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "optimizers/discriminator/learning_rate": FloatDistribution(1e-4, 2e-2, log=True),
        "optimizers/generator/beta1": FloatDistribution(0.0, 0.95),
        "optimizers/discriminator/beta1": FloatDistribution(0.0, 0.95),
        "loss/content_weight": FloatDistribution(1e-2, 1.0, log=True),
        "loss/adversarial_weight": FloatDistribution(1e-4, 1e-1, log=True),
        "sampling": CategoricalDistribution(["UniformPolicy", "NormalPolicy"]),
        "sampling/deviation": When("sampling", "NormalPolicy", FloatDistribution(0.1, 0.5)),
    },
    first_points=[PAPER_V1, PAPER_V0],
    trials=50,
    trial_epochs=30,
)

if __name__ == "__main__":
    run_search(SEARCH)
