// Few queries against many keys: the dimensions stand on the lanes, and every key and value is read once, for up to four
// queries together. Accumulators are T; the order of every sum is fixed by the shape alone.
#pragma once
#include "decode/scores.hpp"
#include "decode/soft.hpp"
#include "decode/sum.hpp"
