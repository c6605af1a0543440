// Where the rows of keys and values stand: by strides, or in pages, whose rows are listed for a tile, one address each. With
// their scales, where they are of few bits. Kernels read either, and know no page.
#pragma once
#include <algorithm>
#include <cstring>

#include "plan.hpp"
#include "runtime/workspace.hpp"

namespace foveate {

// Keys or values with what goes with them.
struct Stored {
  const Operand &rows, &scale, &table;
  int64_t block;
};
inline Stored stored_keys(const Problem& p) { return {p.key, p.key_scale, p.key_table, p.key_block}; }
inline Stored stored_values(const Problem& p) { return {p.value, p.value_scale, p.value_table, p.value_block}; }
inline Stored stored_choices(const Problem& p) { return {p.choices, p.value_scale, p.value_table, p.value_block}; }

// Room for the addresses of a tile's rows; of rows that are in no pages there is none.
struct RowList {
  RowList() = default;
  // Of so many rows the pages alone.
  static RowList of_pages(const Stored& x, int64_t count, Carver& carver) {
    return RowList(x, count / std::max<int64_t>(1, x.rows.page_rows) + 3, carver);
  }
  RowList(const Stored& x, int64_t count, Carver& carver)
      : rows(carver.take<const char*>(x.table ? count : 0)),
        scales(carver.take<const char*>(x.table && x.scale ? count : 0)) {}
  const char **rows = nullptr, **scales = nullptr;
};

// The rows of a batch, or of one of its groups.
class StoredRows {
 public:
  StoredRows(const Plan& plan, const Stored& x, int64_t batch, int64_t group = 0) : x_(x) {
    const auto offset = [&](const Operand& operand) {
      return plan.batch_offset(operand, batch) + (group ? plan.group_offset(operand, group) : 0);
    };
    rows_ = {x.rows.data + offset(x.rows), dtype_of(x.rows), x.rows.row_stride, x.rows.column_stride};
    if (x.scale) {
      rows_.scale = x.scale.data + offset(x.scale);
      rows_.scale_stride = x.scale.row_stride;
      rows_.block = x.block;
    }
    if (!x.table) return;
    table_ = x.table.data + offset(x.table);
    pages_ = x.rows.page_rows > 0 ? plan.problem.keys / x.rows.page_rows : 0;
  }

  // Rows first..first + count - 1, and where the pages begin that they are in, and the one that follows, in `room`.
  Rows in_pages(int64_t first, int64_t count, const RowList& room) const {
    if (!table_) return rows_.from(first);
    const int64_t size = x_.rows.page_rows, begin = first / size;
    const int64_t end = std::min((first + count - 1) / size + 2, pages_);
    Rows listed = rows_;
    listed.page_rows = size;
    listed.first = first % size;
    listed.listed = end - begin;
    for (int64_t t = begin; t < end; ++t) {
      const Rows page = in_page(t);
      room.rows[t - begin] = page.data;
      if (page.scale) room.scales[t - begin] = page.scale;
    }
    listed.list = room.rows;
    if (listed.scale) listed.scale_list = room.scales;
    return listed;
  }

  // The same, with the address of each row, where they are in more than one page.
  Rows at(int64_t first, int64_t count, const RowList& room) const {
    if (!table_) return rows_.from(first);
    const int64_t size = x_.rows.page_rows;
    int64_t page = first / size, begin = first % size;
    if (begin + count <= size) return in_page(page).from(begin);
    Rows listed = rows_;
    for (int64_t j = 0; j < count; ++page, begin = 0) {
      const int64_t end = std::min(count, j + size - begin);
      const Rows rows = in_page(page).from(begin);
      for (int64_t i = j; i < end; ++i) room.rows[i] = rows.row(i - j);
      if (rows.scale)
        for (int64_t i = j; i < end; ++i) room.scales[i] = rows.scale_of(i - j);
      j = end;
    }
    listed.list = room.rows;
    listed.listed = count;
    if (listed.scale) listed.scale_list = room.scales;
    return listed;
  }
  Rows row(int64_t index) const { return at(index, 1, {}); }

  // How many rows from `first` on stand a stride apart, of so many.
  int64_t together(int64_t first, int64_t count) const {
    return table_ ? std::min(count, x_.rows.page_rows - first % x_.rows.page_rows) : count;
  }

 private:
  // The rows of the page at a place of the table. A number that is no page's, as of rows that no query sees, is read as 0.
  Rows in_page(int64_t place) const {
    int64_t number;
    std::memcpy(&number, table_ + place * x_.table.row_stride, sizeof number);
    if (number < 0 || number >= x_.rows.pages) number = 0;
    Rows rows = rows_;
    rows.data += number * x_.rows.page_stride;
    if (rows.scale) rows.scale += number * x_.scale.page_stride;
    return rows;
  }

  Stored x_;
  Rows rows_;                    // of page 0, where there are pages
  const char* table_ = nullptr;  // of the batch
  int64_t pages_ = 0;            // in it
};

// The rows of the open tile, and of the one that follows, which is prefetched: listed once, where they are in pages.
class TileRows {
 public:
  TileRows() = default;
  TileRows(const Stored& x, int64_t most, Carver& carver)
      : in_pages_(bool(x.table)), lists_{RowList(x, most, carver), RowList(x, most, carver)} {}

  // Another batch: its tiles are others.
  void start() { next_tile_ = {0, 0}; }
  void open(const StoredRows& rows, KeyTile tile, KeyTile next) {
    if (!in_pages_) {
      tile_ = rows.at(tile.first, tile.count, {});
      return;
    }
    if (tile.first == next_tile_.first && tile.count == next_tile_.count) {
      at_ = 1 - at_;
      tile_ = next_;
    } else {
      tile_ = rows.at(tile.first, tile.count, lists_[at_]);
    }
    next_tile_ = next;
    if (next.count > 0) next_ = rows.at(next.first, next.count, lists_[1 - at_]);
  }

  const Rows& tile() const { return tile_; }
  // Those of the next tile from a row on, where they are in pages; else, or if some of them are not in that tile, nothing.
  Rows next(int64_t first, int64_t count) const {
    const bool there = first >= next_tile_.first && first + count <= next_tile_.first + next_tile_.count;
    return in_pages_ && there ? next_.from(first - next_tile_.first) : Rows{};
  }

 private:
  bool in_pages_ = false;
  RowList lists_[2];
  int at_ = 0;  // the list of the open tile
  Rows tile_, next_;
  KeyTile next_tile_{0, 0};
};

}  // namespace foveate
