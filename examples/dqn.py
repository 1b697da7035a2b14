"""A small DQN on a corridor, with a bug that is easy to write and hard to see.

It runs (`pip install torch`, `python examples/dqn.py`), no line of it raises, it even learns this corridor. Run
`gradaudit lint examples/dqn.py` to see what is wrong with it.
"""

import random
from collections import deque

import torch
from torch import nn
from torch.nn import functional as F

LENGTH = 8
GAMMA = 0.95


class Corridor:
    """Walk right to the goal at the end: -0.01 a step, 1 at the goal."""

    def reset(self):
        self.place, self.clock = 0, 0
        return self.observation()

    def observation(self):
        return F.one_hot(torch.tensor(self.place), LENGTH).float()

    def step(self, action):
        self.place = max(0, min(LENGTH - 1, self.place + (1 if action == 1 else -1)))
        self.clock += 1
        goal = self.place == LENGTH - 1
        return self.observation(), 1.0 if goal else -0.01, goal or self.clock >= 50


class QNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(LENGTH, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, observation):
        return self.layers(observation)


class DQN:
    def __init__(self):
        self.q_network = QNetwork()
        self.optimizer = torch.optim.Adam(self.q_network.parameters(), lr=1e-3)
        self.memory = deque(maxlen=2_000)

    def act(self, observation, epsilon):
        if random.random() < epsilon:
            return random.randrange(2)
        with torch.no_grad():
            return int(self.q_network(observation).argmax())

    def update(self, batch_size=32):
        batch = random.sample(self.memory, batch_size)
        observations, actions, rewards, next_observations, dones = map(torch.stack, zip(*batch))

        next_values = self.q_network(next_observations).max(dim=1).values
        targets = rewards + GAMMA * (1 - dones) * next_values
        values = self.q_network(observations).gather(1, actions.unsqueeze(1)).squeeze(1)
        loss = F.mse_loss(values, targets)

        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def main(episodes=60):
    env, agent = Corridor(), DQN()
    for episode in range(episodes):
        observation, done, total, loss = env.reset(), False, 0.0, 0.0
        while not done:
            action = agent.act(observation, epsilon=max(0.05, 1 - episode / 30))
            next_observation, reward, done = env.step(action)
            agent.memory.append(
                (observation, torch.tensor(action), torch.tensor(reward), next_observation, torch.tensor(float(done)))
            )
            observation, total = next_observation, total + reward
            if len(agent.memory) >= 200:
                loss = agent.update()
        if episode % 10 == 9:
            print(f"episode {episode + 1:3d}  return {total:5.2f}  loss {loss:.4f}")


def experienced(steps=64):
    """An agent with something to learn from: `gradaudit check examples/dqn.py:DQN.update --factory experienced`."""
    env, agent = Corridor(), DQN()
    observation = env.reset()
    for _ in range(steps):
        action = agent.act(observation, epsilon=1.0)
        following, reward, done = env.step(action)
        agent.memory.append(
            (observation, torch.tensor(action), torch.tensor(reward), following, torch.tensor(float(done)))
        )
        observation = env.reset() if done else following
    return agent


if __name__ == "__main__":
    main()
