// What every kernel shares. No header is included, so that NVRTC needs none; any block size up to MAX_THREADS works.

typedef long long i64;
typedef unsigned long long u64;

enum { MAX_THREADS = 256 };

// The i-th number of a row of logits as a float or a double; bfloat16 travels as its bits.
__device__ inline float value_of(const float* row, i64 i) { return row[i]; }
__device__ inline double value_of(const double* row, i64 i) { return row[i]; }
__device__ inline float value_of(const unsigned short* row, i64 i) {
    union { unsigned bits; float value; } word;
    word.bits = static_cast<unsigned>(row[i]) << 16;
    return word.value;
}
