// Cuts a grid into strips, chunks and blocks.
#include "stencil.hpp"

#include "neighborhood.hpp"

namespace foveate {
namespace {

// Rows that stand in columns: of a chunk of about so many places, so many bytes with all that a block sees. Of 400 to 1200
// KB the forward pass is as fast; gradients gain a tenth by the rows that blocks share less.
constexpr int64_t chunk_places = 128;
constexpr int64_t column_bytes = 1200 << 10, cell_bytes = 256 << 10;
constexpr int64_t most_block_rows = 32;

// Scores in one chain, and windows that are wide enough along one axis go better by tiles.
constexpr int64_t most_columns = 256, most_cells_of_place = 512, most_window_of_row = 32;

}  // namespace

bool by_stencil(const Problem& p) noexcept {
  if (p.neighbor_axes == 0 || p.family != FV_INNER || p.weighing != FV_SOFTMAX) return false;
  if (p.mask || p.left >= 0 || p.right >= 0 || p.offset || p.leave_one_out || p.key_lengths || p.query_segments ||
      p.low || p.centers || p.blocks || p.edge_begins || p.table || p.dropout > 0 || p.queries != p.keys)
    return false;
  if (p.key.page_rows || p.value.page_rows || is_few_bits(dtype_of(p.key)) || is_few_bits(dtype_of(p.value)))
    return false;
  int64_t cells = 1, rows = 1;
  for (int a = 0; a < p.neighbor_axes; ++a) {
    cells *= p.neighbor_axis[a].window;
    if (a + 1 < p.neighbor_axes) rows *= p.neighbor_axis[a].window;
  }
  const NeighborAxis& last = p.neighbor_axis[p.neighbor_axes - 1];
  if (rows == 1 && last.dilation == 1 && last.window > most_window_of_row) return false;
  return cells <= most_cells_of_place && p.head_size > 0 && p.value_size > 0 && p.head_size <= most_columns &&
         p.value_size <= most_columns;
}

Stencil::Stencil(const Plan& plan, bool of_keys, int64_t columns, int64_t extra, Carver& carver) noexcept
    : of_keys_(of_keys), lanes_(plan.arithmetic.lanes) {
  const Problem& p = plan.problem;
  for (int a = 0; a < 3; ++a) {
    const int from = a - (3 - p.neighbor_axes);
    axis_[a] = from >= 0 ? p.neighbor_axis[from] : NeighborAxis{1, 1, 1, false, false};
    // between two borders that move windows inwards, a place is seen by up to twice as many
    const bool moved = of_keys && !axis_[a].causal && !axis_[a].clip;
    const int64_t in_group = (axis_[a].length + axis_[a].dilation - 1) / axis_[a].dilation;
    window_[a] = std::min(in_group, axis_[a].window * (moved ? 2 : 1));
  }
  heads_ = plan.batches * plan.groups;
  most_cells_ = window_[0] * window_[1] * window_[2];

  const int64_t length = axis_[2].length, span = (window_[2] - 1) * axis_[2].dilation;
  chunk_count_ = length <= chunk_places + chunk_places / 2 ? 1 : (length + chunk_places - 1) / chunk_places;
  chunk_places_ = (length + chunk_count_ - 1) / chunk_count_;
  chunk_places_ = (chunk_places_ + lanes_ - 1) / lanes_ * lanes_;
  chunk_count_ = (length + chunk_places_ - 1) / chunk_places_;
  most_columns_ = std::min(length, chunk_places_ + 2 * span);
  row_stride_ = (most_columns_ + lanes_ - 1) / lanes_ * lanes_;
  if (row_stride_ / lanes_ % 2 == 0) row_stride_ += lanes_;  // rows of columns do not share the sets of a cache

  // by what most places see, away from borders
  const int64_t size = plan.arithmetic.element_size, in_group = rows_of_group(0);
  const int64_t row_bytes = axis_[0].window * columns * row_stride_ * size;
  const int64_t cells = axis_[0].window * axis_[1].window * axis_[2].window;
  most_rows_ = std::min(in_group, most_block_rows);
  while (most_rows_ > 1 && ((most_rows_ + axis_[1].window - 1) * row_bytes > column_bytes ||
                            most_rows_ * cells * lanes_ * (size + extra) > cell_bytes))
    --most_rows_;
  blocks_a_group_ = (in_group + most_rows_ - 1) / most_rows_;
  most_rows_ = (in_group + blocks_a_group_ - 1) / blocks_a_group_;
  most_seen_rows_ = window_[0] * most_seen_in_group();
  blocks_a_plane_ = axis_[1].dilation * blocks_a_group_;

  const int64_t strips = chunk_count_ * (chunk_places_ / lanes_ + 1);
  places_ = carver.take<SeenPlaces>(length);
  strips_ = carver.take<Strip>(strips);
  chunks_ = carver.take<Chunk>(chunk_count_);
  seen_ = carver.take<uint32_t>(strips * window_[2]);
}

void Stencil::build() noexcept {
  const int64_t length = axis_[2].length;
  for (int64_t x = 0; x < length; ++x) places_[x] = seen(2, x);
  for (int64_t c = 0; c < chunk_count_; ++c) {
    const int64_t first = c * chunk_places_, last = std::min(length, first + chunk_places_);
    Chunk& chunk = chunks_[c];
    chunk.first_strip = strip_count_;
    add_strips(first, last);
    chunk.strips = strip_count_ - chunk.first_strip;
    int64_t low = length, high = 0;
    for (int64_t x = first; x < last; ++x) {
      low = std::min(low, places_[x].first);
      high = std::max(high, places_[x].first + (places_[x].count - 1) * step() + 1);
    }
    chunk.column = low;
    chunk.columns = high - low;
  }
}

Strip& Stencil::add_strip(const int64_t* places, int64_t count) noexcept {
  Strip& strip = strips_[strip_count_];
  strip.seen = seen_ + strip_count_++ * window_[2];
  strip.live = int32_t(count);
  strip.run_count = 0;
  strip.window = 0;
  strip.hidden = false;
  for (int64_t i = 0; i < count; ++i) {
    strip.place[i] = places[i];
    strip.window = std::max(strip.window, places_[places[i]].count);
  }
  strip.column = places_[places[0]].first;
  return strip;
}

void Stencil::add_strips(int64_t first, int64_t last) noexcept {
  int64_t rest[most_lanes], waiting = 0;
  const auto gather = [&] {
    Strip& strip = add_strip(rest, waiting);
    for (int64_t e = 0; e < strip.window; ++e) {
      strip.seen[e] = 0;
      for (int64_t i = 0; i < waiting; ++i) strip.seen[e] |= uint32_t(places_[rest[i]].count > e) << i;
      strip.hidden = strip.hidden || strip.seen[e] != low_bits(waiting);
    }
    // lanes in order see columns that never fall, but from one group of gaps to the next
    for (int64_t i = 0; i < waiting;) {
      StripRun& run = strip.runs[strip.run_count++];
      int64_t low = places_[rest[i]].first, high = low, end = i + 1;
      for (; end < waiting; ++end) {
        const int64_t column = places_[rest[end]].first;
        if (std::max(high, column) - std::min(low, column) >= lanes_) break;
        low = std::min(low, column);
        high = std::max(high, column);
      }
      run = {low_bits(end) & ~low_bits(i), low, {}};
      for (; i < end; ++i) run.place[i] = int32_t(places_[rest[i]].first - low);
    }
    waiting = 0;
  };
  const auto wait = [&](int64_t place) {
    rest[waiting++] = place;
    if (waiting == lanes_) gather();
  };
  for (int64_t x = first; x < last;) {
    int64_t end = x + 1;
    while (end < last && places_[end].first == places_[end - 1].first + 1 && places_[end].count == places_[x].count)
      ++end;
    for (; end - x >= lanes_; x += lanes_) {
      int64_t places[most_lanes];
      for (int64_t i = 0; i < lanes_; ++i) places[i] = x + i;
      add_strip(places, lanes_);
    }
    for (; x < end; ++x) wait(x);
  }
  if (waiting) gather();
}

int64_t Stencil::most_seen_in_group() const noexcept {
  int64_t most = 0;
  for (int64_t group = 0; group < axis_[1].dilation; ++group) {
    for (int64_t number = 0; number < blocks_a_group_; ++number) {
      Block block;
      block.group = group;
      set_rows(block, number);
      most = std::max(most, block.high - block.low);
    }
  }
  return most;
}

void Stencil::set_rows(Block& block, int64_t number) const noexcept {
  const int64_t rows = rows_of_group(block.group);
  block.first_row = number * rows / blocks_a_group_;
  block.rows = (number + 1) * rows / blocks_a_group_ - block.first_row;
  block.low = rows;
  block.high = 0;
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t step = axis_[1].dilation;
    const SeenPlaces y = seen(1, (block.first_row + i) * step + block.group);
    block.low = std::min(block.low, y.first / step);
    block.high = std::max(block.high, y.first / step + y.count);
  }
}

Block Stencil::block(int64_t task) const noexcept {
  Block block;
  block.chunk = chunks_ + task % chunk_count_;
  task /= chunk_count_;
  const int64_t in_plane = task % blocks_a_plane_;
  task /= blocks_a_plane_;
  block.z = task % axis_[0].length;
  block.head = task / axis_[0].length;
  block.group = in_plane / blocks_a_group_;
  set_rows(block, in_plane % blocks_a_group_);
  block.seen_z = seen(0, block.z);
  return block;
}

}  // namespace foveate
