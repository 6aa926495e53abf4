// The whole patch forecaster of patch_tensorrt_20261129_132957, and no later one, in one kernel: a warp for each target's
// series of each window, WARPS of them a block.
//
// A series is 16 tokens of width 128, which is the height of one tile of the matrix units: a warp keeps its tokens in
// registers from the first layer to the last, and attention needs no other warp. Weights are packed on the host in the
// order in which a warp reads them: 16 bytes a lane feed two products of 16 x 8 x 16. They come in chunks of 16 reads,
// 8 kB. With STAGED the block copies chunks ahead into shared memory; without it the warps read the same weights at about
// the same time, and most reads are from the cache of their multiprocessor. RESIDENT is how many blocks share one.
//
// Registers of a tile 16 x 8 (`c`): lane = 4 * g + t has c0, c1 at row g, columns 2t, 2t + 1, and c2, c3 at row g + 8.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#ifndef STAGED
#define STAGED 1
#endif
#ifndef RESIDENT
#define RESIDENT 1
#endif
#ifndef WARPS
#define WARPS 7
#endif
#define CHUNKS_AHEAD 3
#define CHUNK 512  // in uint4: 16 reads of a warp

#ifndef EMULATED
__device__ __forceinline__ u32 pack_halves(float low, float high)
{
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
__device__ __forceinline__ u16 to_half(float value)
{
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}
__device__ __forceinline__ void multiply(float *c, const u32 *a, u32 b0, u32 b1)
{
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ float power_of_two(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float reciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ uint4 read_weights(const uint4 *from)
{
    uint4 v;
    asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}
__device__ __forceinline__ void copy_ahead(uint4 *to, const uint4 *from)
{
    u32 address = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(address), "l"(from) : "memory");
}
__device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_group %0;" :: "n"(CHUNKS_AHEAD - 1) : "memory"); }
#endif

#define TARGETS 7
#define TOKENS 16
#define PAST 12
#define PATCH 24
#define WIDTH 128
#define HEADS 4
#define BLOCKS 3
#define HIDDEN 512
#define QUANTILES 7
#define MIDDLE 3
#define ANCHORS 6
#define FREE (QUANTILES + ANCHORS)
#define OUT (PATCH * FREE)
#define LENGTH 288
#define HORIZON 96
#define NEAR 108
#define TILES (WIDTH / 8)
#define CHUNKS (3 + BLOCKS * (HEADS * 4 + HIDDEN / 32 * 2) + (OUT + 31) / 32)
#define LOG2E 1.4426950408889634f

// Places in the array of numbers in single precision.
#define CEILINGS 0
#define WIDENING 7
#define STATISTICS_WEIGHT 8
#define STATISTICS_BIAS (STATISTICS_WEIGHT + 4 * WIDTH)
#define CALENDAR_WEIGHT (STATISTICS_BIAS + WIDTH)
#define PAST_BIAS (CALENDAR_WEIGHT + 4 * WIDTH)
#define FUTURE_BIAS (PAST_BIAS + WIDTH)
#define STATUS (FUTURE_BIAS + WIDTH)
#define SERVER (STATUS + 16 * WIDTH)
#define POSITION (SERVER + WIDTH)
#define ANGLES (POSITION + TOKENS * WIDTH)
#define BLOCK_BIASES (ANGLES + 4 * PAST)
#define BIASES_A_BLOCK (4 * WIDTH + HIDDEN + WIDTH)
#define OUT_BIAS (BLOCK_BIASES + BLOCKS * BIASES_A_BLOCK)

__device__ __forceinline__ float sum_warp(float v)
{
    for (int m = 16; m; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
    return v;
}
__device__ __forceinline__ float max_warp(float v)
{
    for (int m = 16; m; m >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, m));
    return v;
}
__device__ __forceinline__ float sum_row(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
__device__ __forceinline__ float max_row(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

// The weights, chunk after chunk. All warps of the block take the same chunks.
struct Reader {
    const uint4 *from;
    uint4 *ring;  // CHUNKS_AHEAD + 1 chunks in shared memory
    u32 chunk;

    __device__ __forceinline__ void copy(u32 number)
    {
        uint4 *to = ring + number % (CHUNKS_AHEAD + 1) * CHUNK;
        for (int i = threadIdx.x; i < CHUNK; i += blockDim.x) {
            if (number < CHUNKS) copy_ahead(to + i, from + number * CHUNK + i);
        }
        end_copies();
    }
    __device__ __forceinline__ void begin()
    {
        chunk = 0;
#if STAGED
        for (int i = 0; i < CHUNKS_AHEAD; i++) copy(i);
#endif
    }
    // The next chunk, as this lane reads it: every 32nd uint4.
    __device__ __forceinline__ const uint4 *next()
    {
        u32 number = chunk++;
#if STAGED
        wait_copies();
        __syncthreads();  // this chunk is there, and nobody reads the one before it any more
        copy(number + CHUNKS_AHEAD);
        return ring + number % (CHUNKS_AHEAD + 1) * CHUNK + threadIdx.x % 32;
#else
        return from + number * CHUNK + threadIdx.x % 32;
#endif
    }
};

#if STAGED
#define READ(weights, i) (weights)[32 * (i)]
#else
#define READ(weights, i) read_weights((weights) + 32 * (i))
#endif

// x * Phi(x); the error function after Abramowitz and Stegun 7.1.26, to 1.5e-7.
__device__ __forceinline__ float gelu(float x)
{
    float z = fabsf(x) * 0.70710678f;
    float t = reciprocal(1.0f + 0.3275911f * z);
    float y = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    y *= 0.5f * power_of_two(-z * z * LOG2E);
    return x * (x > 0.0f ? 1.0f - y : y);
}

// The rows of x with mean 0 and deviation 1, as the left operand of products. The affine part is in the weights.
__device__ __forceinline__ void normalize(const float (*x)[4], u32 (*a)[4])
{
    float mean[2] = {0, 0}, square[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < TILES; j++) {
        mean[0] += x[j][0] + x[j][1];
        mean[1] += x[j][2] + x[j][3];
    }
#pragma unroll
    for (int r = 0; r < 2; r++) mean[r] = sum_row(mean[r]) * (1.0f / WIDTH);
#pragma unroll
    for (int j = 0; j < TILES; j++) {
        float d0 = x[j][0] - mean[0], d1 = x[j][1] - mean[0], d2 = x[j][2] - mean[1], d3 = x[j][3] - mean[1];
        square[0] += d0 * d0 + d1 * d1;
        square[1] += d2 * d2 + d3 * d3;
    }
    float scale[2];
#pragma unroll
    for (int r = 0; r < 2; r++) scale[r] = rsqrtf(sum_row(square[r]) * (1.0f / WIDTH) + 1e-5f);
#pragma unroll
    for (int k = 0; k < TILES / 2; k++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float *c = x[2 * k + half];
            a[k][2 * half] = pack_halves((c[0] - mean[0]) * scale[0], (c[1] - mean[0]) * scale[0]);
            a[k][2 * half + 1] = pack_halves((c[2] - mean[1]) * scale[1], (c[3] - mean[1]) * scale[1]);
        }
    }
}

// c += a x weights for four tiles of columns side by side, over 128 rows of weights.
__device__ __forceinline__ void project(float (*c)[4], const u32 (*a)[4], Reader &reader)
{
    const uint4 *weights = reader.next();
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
        for (int n = 0; n < 4; n++) {
            uint4 w = READ(weights, 4 * k + n);
            multiply(c[n], a[2 * k], w.x, w.y);
            multiply(c[n], a[2 * k + 1], w.z, w.w);
        }
    }
}

// x += a x weights for all columns, over 32 rows of weights.
__device__ __forceinline__ void add_product(float (*x)[4], const u32 (*a)[4], Reader &reader)
{
    const uint4 *weights = reader.next();
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        uint4 w = READ(weights, n);
        multiply(x[n], a[0], w.x, w.y);
        multiply(x[n], a[1], w.z, w.w);
    }
}

__device__ __forceinline__ void fill_columns(float (*c)[4], const float *bias, int tiles, int t)
{
#pragma unroll
    for (int n = 0; n < 4; n++) {
        if (n < tiles) {
            c[n][0] = c[n][2] = bias[8 * n + 2 * t];
            c[n][1] = c[n][3] = bias[8 * n + 2 * t + 1];
        }
    }
}

__device__ __forceinline__ void attend(float (*x)[4], Reader &reader, const float *bias, int g, int t)
{
    u32 normal[TILES / 2][4];
    normalize(x, normal);
#pragma unroll
    for (int n = 0; n < TILES; n++) {  // the bias of the last projection
        float b0 = bias[3 * WIDTH + 8 * n + 2 * t], b1 = bias[3 * WIDTH + 8 * n + 2 * t + 1];
        x[n][0] += b0, x[n][2] += b0, x[n][1] += b1, x[n][3] += b1;
    }
#pragma unroll 1
    for (int head = 0; head < HEADS; head++) {
        u32 query[2][4], key[4][2], value[2][4];
        float c[4][4];
        fill_columns(c, bias + 32 * head, 4, t);
        project(c, normal, reader);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            query[k][0] = pack_halves(c[2 * k][0], c[2 * k][1]), query[k][1] = pack_halves(c[2 * k][2], c[2 * k][3]);
            query[k][2] = pack_halves(c[2 * k + 1][0], c[2 * k + 1][1]);
            query[k][3] = pack_halves(c[2 * k + 1][2], c[2 * k + 1][3]);
        }
        fill_columns(c, bias + WIDTH + 32 * head, 4, t);
        project(c, normal, reader);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            key[n][0] = pack_halves(c[n][0], c[n][1]), key[n][1] = pack_halves(c[n][2], c[n][3]);
        }
        const uint4 *weights = reader.next();
        // Values are computed transposed, (dimension, token), which is how the product with the scores reads them.
#pragma unroll
        for (int m = 0; m < 2; m++) {
            float low = bias[2 * WIDTH + 32 * head + 16 * m + g], high = bias[2 * WIDTH + 32 * head + 16 * m + g + 8];
#pragma unroll
            for (int n = 0; n < 2; n++) c[n][0] = c[n][1] = low, c[n][2] = c[n][3] = high;
#pragma unroll
            for (int k = 0; k < TILES / 2; k++) {
                uint4 w = READ(weights, m * (TILES / 2) + k);
                u32 a[4] = {w.x, w.y, w.z, w.w};
                multiply(c[0], a, normal[k][0], normal[k][2]);
                multiply(c[1], a, normal[k][1], normal[k][3]);
            }
#pragma unroll
            for (int n = 0; n < 2; n++) {
                value[m][2 * n] = pack_halves(c[n][0], c[n][1]), value[m][2 * n + 1] = pack_halves(c[n][2], c[n][3]);
            }
        }
        // Scores (token, token): two tiles of columns.
#pragma unroll
        for (int n = 0; n < 2; n++) {
            c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.0f;
#pragma unroll
            for (int k = 0; k < 2; k++) multiply(c[n], query[k], key[2 * k][n], key[2 * k + 1][n]);
        }
        u32 share[1][4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float *p = c[0] + 2 * r, *q = c[1] + 2 * r;
            float most = max_row(fmaxf(fmaxf(p[0], p[1]), fmaxf(q[0], q[1])));
            p[0] = power_of_two((p[0] - most) * LOG2E), p[1] = power_of_two((p[1] - most) * LOG2E);
            q[0] = power_of_two((q[0] - most) * LOG2E), q[1] = power_of_two((q[1] - most) * LOG2E);
            float scale = reciprocal(sum_row(p[0] + p[1] + q[0] + q[1]));
            share[0][r] = pack_halves(p[0] * scale, p[1] * scale);
            share[0][2 + r] = pack_halves(q[0] * scale, q[1] * scale);
        }
        // (token, dimension): four tiles of columns; the values of dimensions 8n are rows of tile n / 2.
        u32 mixed[2][4];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            float o[4] = {0, 0, 0, 0};
            multiply(o, share[0], value[n / 2][n % 2], value[n / 2][2 + n % 2]);
            mixed[n / 2][2 * (n % 2)] = pack_halves(o[0], o[1]);
            mixed[n / 2][2 * (n % 2) + 1] = pack_halves(o[2], o[3]);
        }
        add_product(x, mixed, reader);
    }
}

__device__ __forceinline__ void feed_forward(float (*x)[4], Reader &reader, const float *bias, int t)
{
    u32 normal[TILES / 2][4];
    normalize(x, normal);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        float b0 = bias[HIDDEN + 8 * n + 2 * t], b1 = bias[HIDDEN + 8 * n + 2 * t + 1];
        x[n][0] += b0, x[n][2] += b0, x[n][1] += b1, x[n][3] += b1;
    }
#pragma unroll 1
    for (int part = 0; part < HIDDEN / 32; part++) {
        float c[4][4];
        u32 hidden[2][4];
        fill_columns(c, bias + 32 * part, 4, t);
        project(c, normal, reader);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            hidden[n / 2][2 * (n % 2)] = pack_halves(gelu(c[n][0]), gelu(c[n][1]));
            hidden[n / 2][2 * (n % 2) + 1] = pack_halves(gelu(c[n][2]), gelu(c[n][3]));
        }
        add_product(x, hidden, reader);
    }
}

__device__ __forceinline__ float soft_plus(float x) { return fmaxf(x, 0.0f) + log1pf(__expf(-fabsf(x))); }

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) forecast_patch(
    const float *encoder_cont, const int *encoder_cat, const float *decoder_cont, const int *decoder_cat,
    const uint4 *weights, const float *numbers, const int *targets, float *forecasts, u32 features, u32 windows)
{
    extern __shared__ uint4 memory[];
    Reader reader = {weights, memory, 0};
    float *free_numbers = (float *)(memory + (STAGED ? (CHUNKS_AHEAD + 1) * CHUNK : 0));  // (WARPS, 4, OUT)
    float(*sums)[2][NEAR + 1] = (float(*)[2][NEAR + 1])(free_numbers + WARPS * 4 * OUT);
    reader.begin();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float *mine = free_numbers + warp * 4 * OUT;
    u16 *pairs = (u16 *)mine;  // at first
    u32 number_of_series = TARGETS * windows, given = blockIdx.x * WARPS + warp;
    bool is_last = given >= number_of_series;  // more warps than series: they do the last one again, and store nothing
    u64 window = (is_last ? number_of_series - 1 : given) / TARGETS;
    u32 target = (is_last ? number_of_series - 1 : given) % TARGETS;

    // Scale the series: lane has the values of steps lane, lane + 32, ...
    const int EACH = LENGTH / 32;
    const float LIMIT = 1e30f;
    const float *series = encoder_cont + window * LENGTH * features + targets[target];
    float value[EACH], seen[EACH], low = LIMIT, high = -LIMIT, count = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        float raw = series[(u64)(32 * i + lane) * features];
        bool known = fabsf(raw) < LIMIT;
        value[i] = known ? raw : 0.0f, seen[i] = known ? 1.0f : 0.0f, count += seen[i];
        if (known) low = fminf(low, raw), high = fmaxf(high, raw);
    }
    low = -max_warp(-low), high = max_warp(high);
    float number = sum_warp(count), reported = fmaxf(number, 1.0f);
    bool any = high >= low;
    low = any ? low : 0.0f;
    float span = any ? high - low : 0.0f, unit = span > 0.0f ? span : 1.0f;
    float offset = low / fmaxf(fabsf(low) + span, 1.0f / LIMIT);
    float mean = 0, deviation = 0, center = 0, spread = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) value[i] = seen[i] > 0 ? (value[i] - low) / unit : 0.0f, mean += value[i];
    mean = sum_warp(mean) / reported;
#pragma unroll
    for (int i = 0; i < EACH; i++) deviation += fabsf(value[i] - mean) * seen[i];
    deviation = 4.0f * (sum_warp(deviation) / reported);
#pragma unroll
    for (int i = 0; i < EACH; i++) center += fmaxf(fminf(value[i], mean + deviation), mean - deviation) * seen[i];
    center = sum_warp(center) / reported;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        spread += fabsf(fmaxf(fminf(value[i], mean + deviation), mean - deviation) - center) * seen[i];
    }
    spread = fmaxf(sum_warp(spread) / reported, 0.01f);
    float last[2][2] = {{0, 0}, {0, 0}};  // sums and counts of the last 3 and 24 steps
    float *near_sum = sums[warp][0], *near_count = sums[warp][1];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int step = 32 * i + lane;
        float scaled = (value[i] - center) / spread * seen[i];
        u16 *pair = pairs + step / PATCH * 2 * PATCH + step % PATCH;
        pair[0] = to_half(copysignf(logf(1.0f + fabsf(scaled)), scaled)), pair[PATCH] = to_half(seen[i]);
        if (step < NEAR) near_sum[step + 1] = scaled, near_count[step + 1] = seen[i];
        if (step >= LENGTH - 3) last[0][0] += scaled, last[0][1] += seen[i];
        if (step >= LENGTH - 24) last[1][0] += scaled, last[1][1] += seen[i];
    }
    float recent[2];
    for (int i = 0; i < 2; i++) recent[i] = sum_warp(last[i][0]) / fmaxf(sum_warp(last[i][1]), 1.0f);
    __syncwarp();
    if (lane < 2) {  // sums up to each step
        float *sum = sums[warp][lane];
        sum[0] = 0;
        for (int i = 1; i <= NEAR; i++) sum[i] += sum[i - 1];
    }

    // Tokens. The rows of the first layer's weights are those of past tokens, then those of future tokens.
    float x[TILES][4], day[2][4];
    const float *constant[2];  // for each of the two rows: the embedding of its status
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int token = g + 8 * r, ahead = token < PAST ? 0 : (token - PAST) * PATCH;
        const float *calendar = decoder_cont + (window * HORIZON + ahead) * 4;
        int status = token < PAST ? encoder_cat[(window * LENGTH + token * PATCH + PATCH - 1) * 2 + 1]
                                  : decoder_cat[(window * HORIZON + ahead) * 2 + 1];
        constant[r] = numbers + STATUS + (status < 0 ? 0 : status > 15 ? 15 : status) * WIDTH;
#pragma unroll
        for (int k = 0; k < 4; k++) day[r][k] = calendar[k];
        if (token < PAST) {
            const float *angle = numbers + ANGLES + 4 * token;
#pragma unroll
            for (int k = 0; k < 4; k += 2) {
                float sine = day[r][k], cosine = day[r][k + 1];
                day[r][k] = sine * angle[k] + cosine * angle[k + 1];
                day[r][k + 1] = cosine * angle[k] - sine * angle[k + 1];
            }
        }
    }
    float log_spread = logf(spread), share_seen = number / LENGTH;
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int column = 8 * n + 2 * t + half;
            const float *w = numbers + STATISTICS_WEIGHT + 4 * column, *d = numbers + CALENDAR_WEIGHT + 4 * column;
            float embedded = numbers[STATISTICS_BIAS + column] + numbers[SERVER + column];
            embedded += center * w[0] + log_spread * w[1] + share_seen * w[2] + offset * w[3];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int token = g + 8 * r;
                float own = numbers[(token < PAST ? PAST_BIAS : FUTURE_BIAS) + column] + constant[r][column];
                own += numbers[POSITION + token * WIDTH + column];
#pragma unroll
                for (int k = 0; k < 4; k++) own += day[r][k] * d[k];
                x[n][2 * r + half] = embedded + own;
            }
        }
    }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 3; k++) {
        u32 a[2][4];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int column = (2 * k + half) * 16 % 48 + 2 * t;
            bool future = (2 * k + half) * 16 >= 48;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = g + 8 * (i % 2), from = row < PAST ? row : row - PAST;
                u32 pair = *(const u32 *)(pairs + from * 2 * PATCH + column + 8 * (i / 2));
                a[half][i] = (row >= PAST) == future ? pair : 0;
            }
        }
        add_product(x, a, reader);
    }

#pragma unroll 1
    for (int block = 0; block < BLOCKS; block++) {
        const float *bias = numbers + BLOCK_BIASES + block * BIASES_A_BLOCK;
        attend(x, reader, bias, g, t);
        feed_forward(x, reader, bias + 4 * WIDTH, t);
        __syncthreads();  // without STAGED the warps stay together by this, and share what is in the cache
    }

    // The free numbers of the future tokens, which are rows 12 to 15: lanes with g >= 4, c2 and c3.
    {
        u32 normal[TILES / 2][4];
        normalize(x, normal);
#pragma unroll 1
        for (int part = 0; part < (OUT + 31) / 32; part++) {
            float c[4][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}};
            project(c, normal, reader);
#pragma unroll
            for (int n = 0; n < 4; n++) {
                int column = 32 * part + 8 * n + 2 * t;
                if (g >= 4 && column < OUT) {
                    mine[(g - 4) * OUT + column] = c[n][2] + numbers[OUT_BIAS + column];
                    mine[(g - 4) * OUT + column + 1] = c[n][3] + numbers[OUT_BIAS + column + 1];
                }
            }
        }
    }
    __syncwarp();

    // For each hour: order the quantiles, add the blend of simple forecasts, return to raw units.
    const float REACH = 1.5f, UNBOUNDED = 1e31f;
    float widening = numbers[WIDENING];
    float floor = low >= 0.0f ? 0.0f : low - (1.0f + REACH) * span;
    float ceiling = low + span <= 100.0f ? numbers[CEILINGS + target] : UNBOUNDED;
    for (int hour = is_last ? HORIZON : lane; hour < HORIZON; hour += 32) {
        const float *free = mine + hour / PATCH * OUT + hour % PATCH * FREE;
        float anchor[ANCHORS], most = -1e30f, total = 0, base = 0;
        const int reach[3] = {0, 3, 12};
#pragma unroll
        for (int i = 0; i < 3; i++) {
            int first = hour - reach[i] < 0 ? 0 : hour - reach[i], end = hour + reach[i] + 1;
            float seen_there = near_count[end] - near_count[first];
            anchor[i] = (near_sum[end] - near_sum[first]) / fmaxf(seen_there, 1.0f);
        }
        anchor[3] = recent[0], anchor[4] = recent[1], anchor[5] = 0.0f;
#pragma unroll
        for (int i = 0; i < ANCHORS; i++) most = fmaxf(most, free[QUANTILES + i]);
#pragma unroll
        for (int i = 0; i < ANCHORS; i++) {
            float weight = __expf(free[QUANTILES + i] - most);
            total += weight, base += weight * anchor[i];
        }
        base /= total;
        float quantile[QUANTILES];
        quantile[MIDDLE] = free[MIDDLE];
#pragma unroll
        for (int i = MIDDLE + 1; i < QUANTILES; i++) quantile[i] = quantile[i - 1] + widening * soft_plus(free[i]);
#pragma unroll
        for (int i = MIDDLE - 1; i >= 0; i--) quantile[i] = quantile[i + 1] - widening * soft_plus(free[i]);
        float *to = forecasts + ((window * TARGETS + target) * HORIZON + hour) * QUANTILES;
#pragma unroll
        for (int i = 0; i < QUANTILES; i++) {
            float share = center + spread * (quantile[i] + base);
            float raw = low + span * fmaxf(-REACH, fminf(1.0f + REACH, share));
            to[i] = fminf(fmaxf(raw, floor), ceiling);
        }
    }
}
