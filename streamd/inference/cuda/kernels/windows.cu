// Kernels around a forecasting network: rows into the resident windows, windows into the inputs, finished forecasts.
//
// Compiled by scripts/compile_kernels.py into windows.ptx beside this file; no compiler is needed where it runs.
// Pointers called `staged_*` are to pinned host memory, which the kernels read directly: these are a few bytes a window.
// A position is slot * length + step % length: the place of a row in the resident arrays.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// Stores new rows: values (capacity * length, features), marks (capacity * length). One thread for each value.
extern "C" __global__ void scatter_rows(
    u32 *values, u8 *marks, const u32 *staged_positions, const u32 *staged_values, const u8 *staged_marks,
    u32 rows, u32 features)
{
    u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = index / features;
    if (row >= rows) return;
    u32 column = index - row * features;
    u64 position = staged_positions[row];
    values[position * features + column] = staged_values[index];
    if (column == 0) marks[position] = staged_marks[row];
}

// Copies windows, oldest row first, into the inputs of the network. One block for each window.
//
// encoder_cont (batch, length, features): the values.
// encoder_cat (batch, length, 2) and decoder_cat (batch, horizon, 2): the server's number, and the status; that of the
// newest row is assumed for the whole horizon.
// decoder_cont (batch, horizon * calendar): the calendar of the window's newest step.
extern "C" __global__ void gather_windows(
    const u32 *values, const u8 *marks, const u32 *staged_slots, const u32 *staged_starts, const u32 *staged_servers,
    const u32 *staged_calendar_of, const u32 *staged_calendars, u32 *encoder_cont, uint2 *encoder_cat,
    u32 *decoder_cont, uint2 *decoder_cat, u32 length, u32 features, u32 horizon, u32 calendar)
{
    const u32 STATUS = 15;
    u64 window = blockIdx.x;
    u64 slot = staged_slots[window];
    u32 start = staged_starts[window], server = staged_servers[window];
    const u32 *ring = values + slot * length * features;
    const u8 *ring_marks = marks + slot * length;

    u32 size = length * features, first = (length - start) * features;
    u32 *to = encoder_cont + window * size;
    for (u32 i = threadIdx.x; i < size; i += blockDim.x) {
        to[i] = i < first ? ring[i + start * features] : ring[i - first];
    }
    for (u32 i = threadIdx.x; i < length; i += blockDim.x) {
        u32 place = i + start < length ? i + start : i + start - length;
        encoder_cat[window * length + i] = make_uint2(server, ring_marks[place] & STATUS);
    }
    const u32 *days = staged_calendars + (u64)staged_calendar_of[window] * calendar;
    for (u32 i = threadIdx.x; i < calendar; i += blockDim.x) {
        decoder_cont[window * calendar + i] = days[i];
    }
    u32 newest = ring_marks[start ? start - 1 : length - 1] & STATUS;
    for (u32 i = threadIdx.x; i < horizon; i += blockDim.x) {
        decoder_cat[window * horizon + i] = make_uint2(server, newest);
    }
}

// Finishes forecasts: (batch, horizon, targets, quantiles) to (batch, targets, horizon, quantiles), quantiles sorted
// with NaN last; reports (batch, 2): the checksum of each forecast, and whether a number is not finite.
//
// One block for each window; a thread sorts the quantiles of one step of one target at a time, by insertion, since they
// rarely cross. `shared` has room for a window's numbers, or `in_place` is set, and they are sorted in device memory.
// The checksum is the sum of words of 8 bytes times `multipliers`, modulo 2^64; a last half word counts as a word.
extern "C" __global__ void finish_forecasts(
    const float *predictions, float *forecasts, u64 *reports, const u64 *multipliers,
    u32 horizon, u32 targets, u32 quantiles, u32 in_place)
{
    extern __shared__ float shared[];
    __shared__ u64 check;
    __shared__ u32 broken;
    u32 steps = horizon * targets, size = steps * quantiles;
    u64 window = (u64)blockIdx.x * size;
    const float *from = predictions + window;
    float *to = forecasts + window;
    float *sorted = in_place ? to : shared;
    if (threadIdx.x == 0) check = 0, broken = 0;
    __syncthreads();

    u32 bad = 0;
    for (u32 step = threadIdx.x; step < steps; step += blockDim.x) {
        u32 target = step / horizon, hour = step - target * horizon;
        const float *given = from + (hour * targets + target) * quantiles;
        float *mine = sorted + step * quantiles;
        for (u32 i = 0; i < quantiles; i++) {
            float value = given[i];
            bad |= (__float_as_uint(value) & 0x7f800000u) == 0x7f800000u;
            u32 at = i;
            for (; at > 0 && !(mine[at - 1] <= value) && value == value; at--) mine[at] = mine[at - 1];
            mine[at] = value;
        }
    }
    if (bad) atomicOr(&broken, 1u);
    __syncthreads();

    u64 sum = 0;
    for (u32 i = threadIdx.x; 2 * i < size; i += blockDim.x) {
        float low = sorted[2 * i], high = 2 * i + 1 < size ? sorted[2 * i + 1] : 0.0f;
        sum += ((u64)__float_as_uint(high) << 32 | __float_as_uint(low)) * multipliers[i];
        if (!in_place) {
            to[2 * i] = low;
            if (2 * i + 1 < size) to[2 * i + 1] = high;
        }
    }
    for (int lanes = 16; lanes; lanes >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (threadIdx.x % 32 == 0) atomicAdd(&check, sum);
    __syncthreads();
    if (threadIdx.x == 0) reports[2 * blockIdx.x] = check, reports[2 * blockIdx.x + 1] = broken;
}
