// Greedy and target-only verification: one block a row walks down its tree, and reads the laws on the path only.

// Index of the first largest entry, the same in every thread; `top` is the entry.
template <typename Number>
__device__ i64 argmax(const Number* row, i64 size, double* top) {
    __shared__ double best[MAX_THREADS];
    __shared__ i64 at[MAX_THREADS];
    const int me = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    double mine = 0;
    i64 where = -1;
    for (i64 i = me; i < size; i += threads) {
        const double x = static_cast<double>(value_of(row, i));
        if (where < 0 || x > mine) {
            mine = x;
            where = i;
        }
    }
    best[me] = mine;
    at[me] = where;
    __syncthreads();
    int winner = 0;
    for (int t = 1; t < threads && at[t] >= 0; t++)
        if (best[t] > best[winner] || (best[t] == best[winner] && at[t] < at[winner])) winner = t;
    *top = best[winner];
    const i64 found = at[winner];
    __syncthreads();
    return found;
}

// Token of the softmax of row / temperature whose cumulative probability first exceeds `uniform`. Each thread sums a
// stretch; one thread finds the stretch and walks through it.
template <typename Number>
__device__ i64 draw(const Number* row, i64 size, double temperature, double uniform) {
    __shared__ double part[MAX_THREADS];
    __shared__ i64 picked;
    double top;
    argmax(row, size, &top);
    top /= temperature;
    const i64 stretch = (size + blockDim.x - 1) / blockDim.x;
    const i64 start = threadIdx.x * stretch, stop = start + stretch < size ? start + stretch : size;
    double sum = 0;
    for (i64 i = start; i < stop; i++) sum += exp(static_cast<double>(value_of(row, i)) / temperature - top);
    part[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0, running = 0;
        for (unsigned t = 0; t < blockDim.x; t++) total += part[t];
        const double threshold = uniform * total;
        unsigned t = 0;
        while (t + 1 < blockDim.x && running + part[t] <= threshold) running += part[t++];
        picked = -1;
        i64 last = 0;
        for (i64 i = t * stretch; i < size && picked < 0; i++) {
            const double weight = exp(static_cast<double>(value_of(row, i)) / temperature - top);
            running += weight;
            if (weight > 0) last = i;
            if (running > threshold && weight > 0) picked = i;
        }
        if (picked < 0) picked = last;
    }
    __syncthreads();
    const i64 token = picked;
    __syncthreads();
    return token;
}

// The child of `node` that carries `token`, -1 for none, the same in every thread.
__device__ inline i64 child_with(const i64* tokens, const i64* parents, i64 count, i64 node, i64 token) {
    __shared__ i64 found;
    if (threadIdx.x == 0) found = -1;
    __syncthreads();
    for (i64 child = node + 1 + threadIdx.x; child < count; child += blockDim.x)
        if (parents[child] == node && tokens[child] == token) found = child;
    __syncthreads();
    const i64 child = found;
    __syncthreads();
    return child;
}

template <typename Number>
__device__ void walk(const Number* logits, const double* temperature, const i64* tokens, const i64* parents,
                     const i64* counts, const double* uniforms, i64 width, i64 vocabulary, i64* path, i64* kept,
                     i64* emitted) {
    const i64 b = blockIdx.x, row = b * width;
    i64 node = 0, length = 0, token = 0;
    while (node >= 0 && length < width) {
        const Number* law = logits + (row + node) * vocabulary;
        double top;
        if (temperature != nullptr && temperature[b] > 0)
            token = draw(law, vocabulary, temperature[b], uniforms[row + node]);
        else
            token = argmax(law, vocabulary, &top);
        if (threadIdx.x == 0) {
            path[row + length] = node;
            emitted[row + length] = token;
        }
        length++;
        node = child_with(tokens + row, parents + row, counts[b], node, token);
    }
    if (threadIdx.x == 0) kept[b] = length;
    for (i64 i = length + threadIdx.x; i < width; i += blockDim.x) path[row + i] = emitted[row + i] = -1;
}

#define VERIFY(SUFFIX, NUMBER)                                                                                        \
    extern "C" __global__ void verify_target_only_##SUFFIX(                                                           \
        const NUMBER* logits, const double* temperature, const i64* tokens, const i64* parents, const i64* counts,    \
        const double* uniforms, i64 width, i64 vocabulary, i64* path, i64* kept, i64* emitted) {                      \
        walk<NUMBER>(logits, temperature, tokens, parents, counts, uniforms, width, vocabulary, path, kept, emitted); \
    }                                                                                                                 \
    extern "C" __global__ void verify_greedy_##SUFFIX(const NUMBER* logits, const i64* tokens, const i64* parents,    \
                                                      const i64* counts, i64 width, i64 vocabulary, i64* path,        \
                                                      i64* kept, i64* emitted) {                                      \
        walk<NUMBER>(logits, nullptr, tokens, parents, counts, nullptr, width, vocabulary, path, kept, emitted);      \
    }

VERIFY(float32, float)
VERIFY(float64, double)
VERIFY(bfloat16, unsigned short)
