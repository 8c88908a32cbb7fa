#include "model.h"

#include <algorithm>
#include <future>
#include <stdexcept>

#include "priority.h"

namespace lstmserve {

bool Shape::pools(Pooling kind) const { return std::find(pooling.begin(), pooling.end(), kind) != pooling.end(); }

namespace {

void require(bool holds, const std::string& otherwise) {
  if (!holds) throw std::invalid_argument(otherwise);
}

std::size_t packed_size(int gates, int units, int size) {
  return static_cast<std::size_t>(round_up(units, kBlock)) * gates * round_up(size, kStateAlign);
}

// [gates][units][size] times the factor of each gate; zeros where there is nothing
std::vector<float> scaled(const float* from, Cell cell, int units, int size) {
  const std::size_t number = static_cast<std::size_t>(units) * size;
  std::vector<float> result(gates_of(cell) * number);
  for (std::size_t n = 0; from && n < result.size(); ++n)
    result[n] = from[n] * gate_factor(cell, static_cast<int>(n / number));
  return result;
}

// Copies [gates][units] to [blocks][gates][16], adding to what is there.
void add_bias(const float* from, int gates, int units, float* to) {
  for (int gate = 0; gate < gates; ++gate)
    for (int unit = 0; unit < units; ++unit)
      to[(unit / kBlock * gates + gate) * kBlock + unit % kBlock] += from[gate * units + unit];
}

}  // namespace

void Shape::check() const {
  require(vocab_size > 0 && embedding_dim > 0 && hidden_size > 0 && num_logits > 0, "sizes must be positive");
  require(num_layers > 0, "num_layers must be positive");
  require(num_directions == 1 || num_directions == 2, "num_directions must be 1 or 2");
  require(proj_size >= 0 && proj_size < hidden_size, "proj_size must be below hidden_size");
  require(!proj_size || cell == Cell::lstm, "proj_size is for lstm only");
  require(!pooling.empty(), "pooling must name at least one kind");
}

Model::Model(const Path& path_, Shape shape_, const Weights& weights, int table_rows_, int threads)
    : path(path_), shape(std::move(shape_)), table_rows(std::min(table_rows_, shape.vocab_size)) {
  shape.check();
  require(table_rows >= 0, "table_rows must not be negative");
  require(threads > 0, "threads must be positive");
  const auto number = static_cast<std::size_t>(shape.num_layers) * shape.num_directions;
  require(weights.directions.size() == number, "weights of every direction of every layer are needed");
  directions_.resize(number);
  for (std::size_t n = 0; n < number; ++n) {
    const int layer = static_cast<int>(n) / shape.num_directions;
    pack(directions_[n], weights.directions[n], layer);
    if (layer == 0) fold(directions_[n], weights.directions[n], weights.embedding, threads);
  }
  const std::size_t width = input_bytes(0);
  embedding_ = Buffer((shape.vocab_size - table_rows) * width);
  for (int token = table_rows; token < shape.vocab_size; ++token)
    path.encode(weights.embedding + static_cast<std::size_t>(token) * shape.embedding_dim, shape.embedding_dim,
                embedding_.at((token - table_rows) * width));
  linear_ = Buffer(packed_size(1, shape.num_logits, shape.feature_size()) * sizeof(float));
  path.pack_exact(weights.linear, 1, shape.num_logits, shape.feature_size(), linear_.floats());
  linear_bias_ = Buffer(round_up(shape.num_logits, kBlock) * sizeof(float));
  add_bias(weights.linear_bias, 1, shape.num_logits, linear_bias_.floats());
}

void Model::pack(Direction& to, const DirectionWeights& from, int layer) {
  const int gates = shape.gates(), units = shape.hidden_size, inputs = shape.inputs(layer), size = shape.state_size();
  to.w_hh = Buffer(packed_size(gates, units, size) * path.element);
  path.pack(scaled(from.w_hh, shape.cell, units, size).data(), gates, units, size, to.w_hh.data());
  if (layer || table_rows < shape.vocab_size) {
    to.w_ih = Buffer(packed_size(gates, units, inputs) * path.element);
    path.pack(scaled(from.w_ih, shape.cell, units, inputs).data(), gates, units, inputs, to.w_ih.data());
  }
  if (shape.proj_size) {
    to.w_hr = Buffer(packed_size(1, shape.proj_size, units) * path.element);
    path.pack(from.w_hr, 1, shape.proj_size, units, to.w_hr.data());
  }
  std::vector<float> b_ih = scaled(from.b_ih, shape.cell, units, 1), b_hh = scaled(from.b_hh, shape.cell, units, 1);
  to.bias = Buffer(shape.row() * sizeof(float));
  to.n_bias = Buffer(static_cast<std::size_t>(shape.blocks()) * kBlock * sizeof(float));
  if (shape.cell == Cell::gru) {  // its b_hn is multiplied by r and stays apart
    const auto n = b_hh.begin() + 2 * units;
    add_bias(&*n, 1, units, to.n_bias.floats());
    std::fill(n, b_hh.end(), 0.0F);
  }
  add_bias(b_ih.data(), gates, units, to.bias.floats());
  add_bias(b_hh.data(), gates, units, to.bias.floats());
}

void Model::fold(Direction& to, const DirectionWeights& from, const float* embedding, int threads) {
  const int gates = shape.gates(), size = shape.embedding_dim, columns = round_up(size, kStateAlign);
  Buffer packed(packed_size(gates, shape.hidden_size, size) * sizeof(float));
  const std::vector<float> w_ih = scaled(from.w_ih, shape.cell, shape.hidden_size, size);
  path.pack_exact(w_ih.data(), gates, shape.hidden_size, size, packed.floats());
  to.table = Buffer(static_cast<std::size_t>(table_rows) * row_bytes());
  const auto work = [&](int begin, int end) {
    leave_signals();
    give_way();  // a model may be folded beside the traffic
    Buffer x(static_cast<std::size_t>(kChunk) * columns * sizeof(float));
    Buffer scratch(scratch_size(kChunk) * sizeof(float));
    void* out[kChunk];
    for (int token = begin; token < end; token += kChunk) {
      const int rows = std::min(kChunk, end - token);
      for (int row = 0; row < rows; ++row) {
        const float* from_row = embedding + static_cast<std::size_t>(token + row) * size;
        std::copy(from_row, from_row + size, x.floats() + static_cast<std::size_t>(row) * columns);
        out[row] = to.table.at(static_cast<std::size_t>(token + row) * row_bytes());
      }
      const Product product{packed.data(), gates,    shape.blocks(),
                            columns,       x.data(), static_cast<std::ptrdiff_t>(columns * sizeof(float)),
                            rows};
      path.fold(product, to.bias.floats(), out, scratch.floats());
    }
  };
  std::vector<std::future<void>> parts;
  const int share = round_up((table_rows + threads - 1) / threads, kChunk);
  for (int begin = 0; begin < table_rows; begin += share)
    parts.push_back(std::async(std::launch::async, work, begin, std::min(begin + share, table_rows)));
  for (std::future<void>& part : parts) part.get();
}

const void* Model::embedding(std::int32_t token) const { return embedding_.at((token - table_rows) * input_bytes(0)); }

void Model::head(const float* features, float* logits) const {
  const int size = shape.feature_size(), columns = round_up(size, kStateAlign);
  const int blocks = round_up(shape.num_logits, kBlock) / kBlock;
  Buffer x(columns * sizeof(float)), out(static_cast<std::size_t>(blocks) * kBlock * sizeof(float));
  Buffer scratch(scratch_size(1) * sizeof(float));
  std::copy(features, features + size, x.floats());
  void* row = out.data();
  const Product product{linear_.data(), 1, blocks, columns, x.data(), 0, 1};
  path.exact(product, linear_bias_.floats(), &row, scratch.floats());
  std::copy(out.floats(), out.floats() + shape.num_logits, logits);
}

}  // namespace lstmserve
