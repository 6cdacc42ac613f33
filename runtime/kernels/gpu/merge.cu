// Merge: one block a row; every comparison of two candidates is a thread's.
// `first`: the earliest candidate that stands for the same node (-1: none); `above`: the one over it.

// Least probability from candidate `i` up to the root.
__device__ inline double path_chance(const double* chance, const i64* above, i64 i) {
    double least = chance[i];
    while (above[i] >= 0) {
        i = above[i];
        least = chance[i] < least ? chance[i] : least;
    }
    return least;
}

__device__ inline void join(const i64* tokens, const i64* parents, const double* probability, i64 size, i64* first,
                            i64* above, double* chance) {
    __shared__ i64 found;
    const bool leads = threadIdx.x == 0;
    if (leads) {
        first[0] = 0;
        above[0] = -1;
        chance[0] = 1.0;
    }
    __syncthreads();
    for (i64 i = 1; i < size; i++) {
        const i64 over = first[parents[i]];
        const bool there = tokens[i] >= 0 && over >= 0;
        if (leads) found = there ? i : -1;
        __syncthreads();
        for (i64 j = threadIdx.x; j < i; j += blockDim.x)
            if (there && first[j] == j && above[j] == over && tokens[j] == tokens[i]) found = j;
        __syncthreads();
        if (leads) {
            first[i] = found;
            above[i] = over;
            chance[i] = probability[i];
            if (found >= 0 && probability[i] > chance[found]) chance[found] = probability[i];
        }
        __syncthreads();
    }
}

// Candidates that come before `i`: likelier ones, and equal ones that stand before it.
__device__ inline i64 rank_of(i64 i, double mine, i64 size, const i64* first, const i64* above, const double* chance,
                              double price) {
    i64 rank = 0;
    for (i64 j = 1; j < size; j++) {
        if (first[j] != j) continue;
        const double other = path_chance(chance, above, j);
        rank += other > price && (other > mine || (other == mine && j < i));
    }
    return rank;
}

extern "C" __global__ void merge_candidates(const i64* all_tokens, const i64* all_parents, const double* all_probability,
                                            const i64* budgets, double price, i64* place, double* all_chance, i64 size,
                                            i64 width, i64* out_tokens, i64* out_parents, double* out_chance,
                                            i64* counts) {
    const i64 b = blockIdx.x;
    const i64* tokens = all_tokens + b * size;
    i64 *first = place + 3 * b * size, *above = first + size, *kept = above + size;
    double* chance = all_chance + b * size;
    join(tokens, all_parents + b * size, all_probability + b * size, size, first, above, chance);
    const i64 room = budgets[b] < width - 1 ? budgets[b] : width - 1;
    for (i64 i = 1 + threadIdx.x; i < size; i += blockDim.x) {
        const double mine = first[i] == i ? path_chance(chance, above, i) : 0.0;
        kept[i] = first[i] == i && mine > price && rank_of(i, mine, size, first, above, chance, price) < room;
    }
    __syncthreads();
    out_tokens += b * width;
    out_parents += b * width;
    out_chance += b * width;
    if (threadIdx.x == 0) {
        out_tokens[0] = tokens[0];
        out_parents[0] = -1;
        out_chance[0] = 1.0;
        kept[0] = 0;
        i64 made = 1;
        for (i64 i = 1; i < size; i++)
            if (kept[i]) kept[i] = made++;
        counts[b] = made;
    }
    __syncthreads();
    for (i64 i = 1 + threadIdx.x; i < size; i += blockDim.x) {
        if (!kept[i]) continue;
        out_tokens[kept[i]] = tokens[i];
        out_parents[kept[i]] = kept[above[i]];
        out_chance[kept[i]] = path_chance(chance, above, i);
    }
    for (i64 i = counts[b] + threadIdx.x; i < width; i += blockDim.x) {
        out_tokens[i] = 0;
        out_parents[i] = -1;
        out_chance[i] = 0.0;
    }
}
