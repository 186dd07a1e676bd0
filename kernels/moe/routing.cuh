// Where every slot of every token goes: the table that Route writes and the other operations read.
#pragma once
#include "common/elementwise.cuh"

namespace moe {

using namespace elementwise;

constexpr int MaxExperts = 512;  // one bit each in masks of shared memory; mod.rs holds the same number

// R = tokens * slots rows, ordered by expert, within an expert by token.
struct Routing {
  int* row;      // (tokens, slots): the row of a slot
  int* expert;   // (tokens, slots), ascending within a token
  int* source;   // (R): token * slots + slot of a row
  int* offset;   // (experts + 1): the first row of each expert, and R
};

__device__ inline Routing routing_at(const int* table, Count rows) {
  int* t = const_cast<int*>(table);
  return {t, t + rows, t + 2 * rows, t + 3 * rows};
}

}  // namespace moe
