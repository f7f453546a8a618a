/* On-policy epsilon-greedy Q-learning on an N x N grid, one walker: the loop that everyone writes, in C.
   gcc -O3 -march=native; arguments: N, steps, epsilon. Prints the seconds the steps took. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t random_state = 1;

static inline uint64_t random_bits(void) {
    uint64_t z = (random_state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    const int side = atoi(argv[1]), states = side * side, goal = states - 1, limit = 100 * side;
    const long steps = atol(argv[2]);
    const uint64_t explored = (uint64_t)(atof(argv[3]) * 4294967296.0);
    const double rate = 0.1, discount = 0.99;
    double (*q)[4] = calloc(states, sizeof *q);
    struct timespec start, end;
    int state = 0, length = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long step = 0; step < steps; step++) {
        const uint64_t bits = random_bits();
        int action = (int)((bits & 0xFFFFFFFFu) * 4 >> 32); /* among equals any, so that zeros are explored */
        if ((bits >> 32) >= explored) {
            double best = q[state][action];
            for (int a = 0; a < 4; a++)
                if (q[state][a] > best) best = q[state][a], action = a;
        }
        int row = state / side, column = state % side;
        if (action == 0) { if (row > 0) row--; }
        else if (action == 1) { if (row < side - 1) row++; }
        else if (action == 2) { if (column > 0) column--; }
        else { if (column < side - 1) column++; }
        const int next = row * side + column;
        double target = next == goal;
        if (next != goal) {
            double best = q[next][0];
            for (int a = 1; a < 4; a++) if (q[next][a] > best) best = q[next][a];
            target += discount * best;
        }
        q[state][action] += rate * (target - q[state][action]);
        if (next == goal || ++length >= limit) { state = (int)(random_bits() % goal); length = 0; }
        else state = next;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double sum = 0;
    for (int s = 0; s < states; s++) for (int a = 0; a < 4; a++) sum += q[s][a];
    fprintf(stderr, "sum of the table: %f\n", sum); /* keeps the loop from being left out */
    printf("%.6f\n", (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec));
    free(q);
    return 0;
}
