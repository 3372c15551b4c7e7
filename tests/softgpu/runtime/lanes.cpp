// What the lanes of a warp do together.
#include <cstring>

#include "block.h"

namespace softgpu {
namespace {

// The value of lane `from`, or of the lane itself where `from` is outside its part of the warp.
template <class Source> void shuffle(Request* const (&lanes)[32], Source source) {
    for (int lane = 0; lane < 32; ++lane) {
        Shuffle* self = static_cast<Shuffle*>(lanes[lane]);
        if (self == nullptr) continue;
        const int width = self->width;
        if (width < 1 || width > 32 || (width & (width - 1)) != 0) fault(LAUNCH_FAILED, "a shuffle of width %d", width);
        const int first = lane & ~(width - 1);
        const int from = source(lane, self->operand, first, width);
        if (lanes[from] == nullptr) {
            fault(LAUNCH_FAILED, "%s (%s:%d): lane %d reads lane %d, which is not in the mask", self->where.what,
                  self->where.file, self->where.line, lane, from);
        }
        self->result = static_cast<Shuffle*>(lanes[from])->value;
    }
}

float to_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
float low(uint32_t pair) { return to_float(pair << 16); }
float high(uint32_t pair) { return to_float(pair & 0xffff0000u); }

// d[16][8] += a[16][16] b[16][8], k ascending.
__attribute__((target_clones("avx2", "default"))) void multiply(float (&d)[16][8], const float (&a)[16][16],
                                                                 const float (&b)[16][8]) {
    for (int row = 0; row < 16; ++row) {
        float sums[8];
        for (int column = 0; column < 8; ++column) sums[column] = d[row][column];
        for (int k = 0; k < 16; ++k) {
            for (int column = 0; column < 8; ++column) sums[column] += a[row][k] * b[k][column];
        }
        for (int column = 0; column < 8; ++column) d[row][column] = sums[column];
    }
}

}  // namespace

void combine_shuffle(Request* const (&lanes)[32]) {
    shuffle(lanes, [](int, int operand, int first, int width) { return first + (operand & (width - 1)); });
}
void combine_shuffle_up(Request* const (&lanes)[32]) {
    shuffle(lanes, [](int lane, int delta, int first, int) { return lane - delta < first ? lane : lane - delta; });
}
void combine_shuffle_down(Request* const (&lanes)[32]) {
    shuffle(lanes, [](int lane, int delta, int first, int width) {
        return lane + delta >= first + width ? lane : lane + delta;
    });
}
void combine_shuffle_xor(Request* const (&lanes)[32]) {
    shuffle(lanes, [](int lane, int bits, int first, int width) {
        const int from = lane ^ bits;
        return from >= first + width || from > 31 || from < 0 ? lane : from;
    });
}

void combine_ballot(Request* const (&lanes)[32]) {
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane) {
        if (lanes[lane] != nullptr && static_cast<Vote*>(lanes[lane])->predicate != 0) votes |= 1u << lane;
    }
    for (Request* lane : lanes) {
        if (lane != nullptr) static_cast<Vote*>(lane)->result = votes;
    }
}

void combine_mma(Request* const (&lanes)[32]) {
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const MatrixMultiply& self = *static_cast<MatrixMultiply*>(lanes[lane]);
        const int group = lane / 4, pair = 2 * (lane % 4);
        for (int part = 0; part < 4; ++part) {
            const int row = group + part % 2 * 8, column = pair + part / 2 * 8;
            a[row][column] = low(self.a[part]);
            a[row][column + 1] = high(self.a[part]);
            d[group + part / 2 * 8][pair + part % 2] = self.d[part];
        }
        for (int part = 0; part < 2; ++part) {
            b[pair + 8 * part][group] = low(self.b[part]);
            b[pair + 8 * part + 1][group] = high(self.b[part]);
        }
    }
    multiply(d, a, b);
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, pair = 2 * (lane % 4);
        for (int part = 0; part < 4; ++part) {
            static_cast<MatrixMultiply*>(lanes[lane])->d[part] = d[group + part / 2 * 8][pair + part % 2];
        }
    }
}

void combine_ldmatrix(Request* const (&lanes)[32]) {
    for (int lane = 0; lane < 32; ++lane) {
        for (int matrix = 0; matrix < 4; ++matrix) {
            const char* row = static_cast<const char*>(static_cast<LoadMatrix*>(lanes[8 * matrix + lane / 4])->row);
            std::memcpy(&static_cast<LoadMatrix*>(lanes[lane])->result[matrix], row + 4 * (lane % 4), 4);
        }
    }
}

void combine_ldmatrix_trans(Request* const (&lanes)[32]) {
    for (int lane = 0; lane < 32; ++lane) {
        for (int matrix = 0; matrix < 4; ++matrix) {
            uint16_t pair[2];
            for (int half = 0; half < 2; ++half) {
                const Request* owner = lanes[8 * matrix + 2 * (lane % 4) + half];
                const char* row = static_cast<const char*>(static_cast<const LoadMatrix*>(owner)->row);
                std::memcpy(&pair[half], row + 2 * (lane / 4), 2);
            }
            std::memcpy(&static_cast<LoadMatrix*>(lanes[lane])->result[matrix], pair, 4);
        }
    }
}

}  // namespace softgpu
