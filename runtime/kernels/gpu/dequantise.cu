// Records of quantised keys or values to numbers: a block a token, and for grids a block a token and group.

enum { MAX_ORDER = 1024 };

// A product that is rounded before it is added to anything, as on the CPU.
__device__ inline float product(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

// Code `place` of a token whose codes begin at `codes`, low bits first; at most 8 bits.
__device__ inline unsigned code_at(const unsigned char* codes, i64 place, i64 bits) {
    const i64 low = place * bits, byte = low / 8, shift = low % 8;
    unsigned word = codes[byte];
    if (shift + bits > 8) word |= static_cast<unsigned>(codes[byte + 1]) << 8;
    return (word >> shift) & ((1u << bits) - 1u);
}

extern "C" __global__ void integer_numbers(const unsigned char* records, i64 record_bytes, const float* scales,
                                           i64 chunk, i64 channels, i64 bits, float* out) {
    const i64 token = blockIdx.x, n = token / chunk, t = token % chunk;
    const unsigned char* codes = records + n * record_bytes + t * ((channels * bits + 7) / 8);
    const float *step = scales + n * 2 * channels, *least = step + channels;
    for (i64 c = threadIdx.x; c < channels; c += blockDim.x)
        out[token * channels + c] = product(static_cast<float>(code_at(codes, c, bits)), step[c]) + least[c];
}

extern "C" __global__ void grid_numbers(const unsigned char* records, i64 record_bytes, const float* scales, i64 chunk,
                                        i64 channels, i64 bits, const float* grid, const float* base, i64 m, i64 order,
                                        double norm, float* out) {
    __shared__ float x[MAX_ORDER], held[MAX_ORDER];
    const i64 token = blockIdx.x, group = blockIdx.y, n = token / chunk, t = token % chunk;
    const i64 groups = channels / order, inner = order / m;
    const unsigned char* codes = records + n * record_bytes + t * ((channels / 2 * bits + 7) / 8);
    for (i64 pair = threadIdx.x; pair < order / 2; pair += blockDim.x) {
        const float* point = grid + 2 * code_at(codes, group * (order / 2) + pair, bits);
        x[2 * pair] = point[0];
        x[2 * pair + 1] = point[1];
    }
    __syncthreads();
    for (i64 half = 1; half < inner; half *= 2) {
        for (i64 i = threadIdx.x; i < order / 2; i += blockDim.x) {
            const i64 low = i / half * 2 * half + i % half;
            const float a = x[low], b = x[low + half];
            x[low] = a + b;
            x[low + half] = a - b;
        }
        __syncthreads();
    }
    if (m > 1) {
        for (i64 i = threadIdx.x; i < order; i += blockDim.x) held[i] = x[i];
        __syncthreads();
        for (i64 i = threadIdx.x; i < order; i += blockDim.x) {
            float sum = 0;
            for (i64 b = 0; b < m; b++) sum += product(base[b * m + i / inner], held[b * inner + i % inner]);
            x[i] = sum;
        }
        __syncthreads();
    }
    const float scale = product(scales[(n * chunk + t) * groups + group], static_cast<float>(norm));
    for (i64 i = threadIdx.x; i < order; i += blockDim.x)
        out[token * channels + group * order + i] = product(x[i], scale);
}
