"""An MDP in arrays: solved exactly, learned by two workers that own half the states each, and compared.

A shop with room for 20 units decides every morning how many to order; what customers want that day is random.
Takes some seconds.
"""

import numpy as np
from scipy import stats

import qfleet

CAPACITY, MEAN_DEMAND = 20, 5.0
PRICE, UNIT_COST, ORDER_COST, HOLDING_COST = 8.0, 2.0, 4.0, 1.0
DISCOUNT = 0.9


def shop() -> qfleet.MDP:
    """States: units in stock. Actions: units to order, as many as there is room for."""
    units = np.arange(CAPACITY + 1)
    stock, order = units[:, None], units[None, :]
    filled = np.minimum(stock + order, CAPACITY)
    transitions = np.stack([stats.poisson.pmf(filled - left, MEAN_DEMAND) for left in units], axis=2)
    transitions[:, :, 0] = stats.poisson.sf(filled - 1, MEAN_DEMAND)  # sold out: whatever more was wanted
    left = transitions @ units
    rewards = PRICE * (filled - left) - UNIT_COST * order - ORDER_COST * (order > 0) - HOLDING_COST * left
    return qfleet.MDP.from_arrays(
        transitions, rewards, allowed=stock + order <= CAPACITY, max_episode_steps=200, name="shop"
    )


if __name__ == "__main__":
    mdp = shop()
    exact = mdp.solve(DISCOUNT)
    run = qfleet.train(
        mdp,
        topology="partitioned",
        workers=2,
        discount=DISCOUNT,
        exploration="uniform",
        learning_rate=1.0,
        learning_rate_schedule="rescaled-linear",
        walkers=4096,  # many: every sale leads across the border, and a round lasts until all have crossed it
        steps=20_000_000,
        seed=0,
    )
    agent = run.agent()
    learned = np.array([agent.act(state) for state in range(mdp.num_states)])
    print("stock            ", np.arange(mdp.num_states))
    print("order, exactly   ", exact.argmax(axis=1))
    print("order, learned   ", learned)
    print(f"values            up to {np.abs(exact[np.isfinite(exact)]).max():.1f}")
    print(f"largest error     {run.summary['max_error']:.3f}")
    print(f"worth, exactly    {mdp.evaluate(exact.argmax(axis=1), DISCOUNT).j:.3f}")
    print(f"worth, learned    {mdp.evaluate(learned, DISCOUNT).j:.3f}")
    print(f"rows of workers   {run.summary['rows_of_workers']}")
