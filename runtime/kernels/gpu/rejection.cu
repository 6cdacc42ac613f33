// Rejection, multi-round and without replacement: one block a row; what is left of a law lies in scratch (B, 2, V).

// Sum of one number a thread, the same in every thread.
__device__ inline double block_sum(double mine) {
    __shared__ double part[MAX_THREADS];
    part[threadIdx.x] = mine;
    __syncthreads();
    double total = 0;
    for (unsigned t = 0; t < blockDim.x; t++) total += part[t];
    __syncthreads();
    return total;
}

// The positive part of target - draft, normalised; the target where nothing is left. `out` may be `target`.
__device__ inline void residual(const double* target, const double* draft, double* out, i64 size) {
    double sum = 0;
    for (i64 i = threadIdx.x; i < size; i += blockDim.x) sum += target[i] > draft[i] ? target[i] - draft[i] : 0;
    const double mass = block_sum(sum);
    for (i64 i = threadIdx.x; i < size; i += blockDim.x) {
        const double surplus = target[i] > draft[i] ? target[i] - draft[i] : 0;
        out[i] = mass > 0 ? surplus / mass : target[i];
    }
    __syncthreads();
}

// The draft's law without `token`, normalised; zeros when nothing is left. `out` may be `draft`.
__device__ inline void without_token(const double* draft, i64 token, double* out, i64 size) {
    double sum = 0;
    for (i64 i = threadIdx.x; i < size; i += blockDim.x) sum += i == token ? 0 : draft[i];
    const double mass = block_sum(sum);
    for (i64 i = threadIdx.x; i < size; i += blockDim.x)
        out[i] = i == token ? 0 : mass > 0 ? draft[i] / mass : draft[i];
    __syncthreads();
}

// Token whose cumulative probability first exceeds uniform * total; never one of probability 0.
__device__ inline i64 pick(const double* law, i64 size, double uniform) {
    __shared__ double part[MAX_THREADS];
    __shared__ i64 picked;
    const i64 stretch = (size + blockDim.x - 1) / blockDim.x;
    const i64 start = threadIdx.x * stretch, stop = start + stretch < size ? start + stretch : size;
    double sum = 0;
    for (i64 i = start; i < stop; i++) sum += law[i];
    part[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0, running = 0;
        for (unsigned t = 0; t < blockDim.x; t++) total += part[t];
        const double threshold = uniform * total;
        unsigned t = 0;
        while (t + 1 < blockDim.x && running + part[t] <= threshold) running += part[t++];
        picked = -1;
        i64 last = size - 1;
        for (i64 i = t * stretch; i < size && picked < 0; i++) {
            running += law[i];
            if (law[i] > 0) last = i;
            if (running > threshold && law[i] > 0) picked = i;
        }
        while (picked < 0 && last > 0 && !(law[last] > 0)) last--;
        if (picked < 0) picked = last;
    }
    __syncthreads();
    const i64 token = picked;
    __syncthreads();
    return token;
}

__device__ inline void reject(const double* target, const double* draft, const i64* tokens, const i64* parents,
                              const i64* counts, const double* acceptance, const double* recovery, i64 width,
                              i64 vocabulary, double* scratch, i64* path, i64* kept, i64* emitted, bool distinct) {
    const i64 b = blockIdx.x, row = b * width;
    double* rooms = scratch + b * 2 * vocabulary;
    i64 node = 0, length = 0;
    bool walking = true;
    while (walking) {
        if (threadIdx.x == 0) path[row + length] = node;
        length++;
        walking = false;
        const double* left = target + (row + node) * vocabulary;
        const double* law = draft + (row + node) * vocabulary;
        for (i64 child = node + 1; child < counts[b] && !walking; child++) {
            if (parents[row + child] != node) continue;
            const i64 token = tokens[row + child];
            const bool keep = acceptance[row + child] * law[token] < left[token];
            __syncthreads();
            if (keep) {
                if (threadIdx.x == 0) emitted[row + length - 1] = token;
                node = child;
                walking = true;
            } else {
                residual(left, law, rooms, vocabulary);
                left = rooms;
                if (distinct) {
                    without_token(law, token, rooms + vocabulary, vocabulary);
                    law = rooms + vocabulary;
                }
            }
        }
        if (!walking) {
            const i64 token = pick(left, vocabulary, recovery[row + node]);
            if (threadIdx.x == 0) emitted[row + length - 1] = token;
        }
    }
    if (threadIdx.x == 0) kept[b] = length;
    for (i64 i = length + threadIdx.x; i < width; i += blockDim.x) path[row + i] = emitted[row + i] = -1;
}

#define REJECT(NAME, DISTINCT)                                                                                       \
    extern "C" __global__ void NAME(const double* target, const double* draft, const i64* tokens,                    \
                                    const i64* parents, const i64* counts, const double* acceptance,                 \
                                    const double* recovery, i64 width, i64 vocabulary, double* scratch, i64* path,   \
                                    i64* kept, i64* emitted) {                                                       \
        reject(target, draft, tokens, parents, counts, acceptance, recovery, width, vocabulary, scratch, path, kept, \
               emitted, DISTINCT);                                                                                   \
    }

REJECT(verify_rejection, false)
REJECT(verify_without_replacement, true)
