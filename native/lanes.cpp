#include "lanes.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "fault.h"

namespace lstmserve {

Lanes::Lanes(const std::shared_ptr<const Model>& model, int layer, int direction, int capacity)
    : model_(model), key_(model.get()), layer_(layer), direction_(direction), capacity_(capacity) {
  const Shape& shape = model->shape;
  const auto rows = static_cast<std::size_t>(round_up(capacity, kRowAlign));
  const auto element = static_cast<std::size_t>(model->path.element);
  const std::size_t outputs = rows * shape.state_blocks() * kBlock * sizeof(float);
  lanes_.reserve(capacity);
  for (int slot = 0; slot < capacity; ++slot) slots_.push_back(slot);
  inputs_.resize(capacity);
  ahead_.resize(capacity);
  h_ = Buffer(rows * shape.columns() * element);
  next_ = Buffer(rows * shape.columns() * element);
  state_ = Buffer(rows * shape.blocks() * kBlock * sizeof(float));
  scratch_ = Buffer(scratch_size(std::max(capacity, kChunk)) * sizeof(float));
  if (shape.proj_size) raw_ = Buffer(rows * shape.raw_columns() * element);
  const bool last = layer + 1 == shape.num_layers;
  if (last && shape.pools(Pooling::max)) max_ = Buffer(outputs);
  if (last && shape.pools(Pooling::mean)) sum_ = Buffer(outputs);
  if (layer || model->table_rows < shape.vocab_size) {
    chunks_ = Buffer(static_cast<std::size_t>(capacity) * kChunk * model->row_bytes());
    x_ = Buffer(kChunk * model->input_bytes(layer));
  }
}

void Lanes::add(Job job) {
  const Shape& shape = model().shape;
  const auto row = static_cast<std::size_t>(rows());
  lanes_.push_back({std::move(job), 0, slots_.back(), {}});
  slots_.pop_back();
  const std::size_t width = static_cast<std::size_t>(shape.columns()) * model().path.element;
  std::memset(h_.at(row * width), 0, width);
  const std::size_t units = static_cast<std::size_t>(shape.blocks()) * kBlock;
  std::fill_n(state_.floats() + row * units, units, 0.0F);
  const std::size_t outputs = static_cast<std::size_t>(shape.state_blocks()) * kBlock;
  if (max_.bytes()) std::fill_n(max_.floats() + row * outputs, outputs, -std::numeric_limits<float>::infinity());
  if (sum_.bytes()) std::fill_n(sum_.floats() + row * outputs, outputs, 0.0F);
}

void Lanes::step(std::vector<Job>& finished) {
  const Shape& shape = model().shape;
  const Direction& weights = model().direction(layer_, direction_);
  for (int row = 0; row < rows(); ++row) {
    Lane& lane = lanes_[row];
    const int at = lane.position % kChunk;
    if (at == 0) fetch(lane);
    inputs_[row] = lane.gate[at];
    const bool more = at + 1 < kChunk && lane.position + 1 < lane.job.task->length();
    ahead_[row] = lane.gate[at + more];
  }
  model().path.step({shape.cell, rows(), shape.blocks(), shape.columns(), weights.w_hh.data(), inputs_.data(),
                     ahead_.data(), weights.n_bias.floats(), h_.data(), next_.data(), state_.floats(),
                     weights.w_hr.data(), shape.state_blocks(), shape.raw_columns(), raw_.data(), max_.floats(),
                     sum_.floats(), scratch_.floats()});
  std::swap(h_, next_);
  for (int row = rows() - 1; row >= 0; --row) {
    Lane& lane = lanes_[row];
    if (meet(Point::step, &lane.job.task->tokens[token_at(lane, lane.position)], 1)) spoil(row);
    keep(row);
    if (++lane.position < lane.job.task->length()) continue;
    if (lane.job.task->last_layer()) pool(row);
    finished.push_back(std::move(lane.job));
    remove(row);
  }
}

void Lanes::drop(double now, std::vector<Job>& dropped) {
  for (int row = rows() - 1; row >= 0; --row) {
    Task& task = *lanes_[row].job.task;
    if (task.deadline <= now) task.end(Ending::overdue);
    if (task.running()) continue;
    dropped.push_back(std::move(lanes_[row].job));
    remove(row);
  }
}

Job Lanes::take() {
  Job job = std::move(lanes_.back().job);
  remove(rows() - 1);
  return job;
}

int Lanes::token_at(const Lane& lane, int position) const {
  return direction_ ? lane.job.task->length() - 1 - position : position;
}

// Finds the gate inputs of the next tokens, or computes them.
void Lanes::fetch(Lane& lane) {
  const int count = std::min(kChunk, lane.job.task->length() - lane.position);
  for (int n = 0; n < count && chunks_.bytes(); ++n)
    lane.gate[n] = chunks_.at((static_cast<std::size_t>(lane.slot) * kChunk + n) * model().row_bytes());
  if (layer_)
    fetch_outputs(lane, count);
  else
    fetch_embedded(lane, count);
}

void Lanes::fetch_embedded(Lane& lane, int count) {
  const Direction& weights = model().direction(0, direction_);
  const std::size_t width = model().input_bytes(0);
  void* out[kChunk];
  int rows = 0;
  for (int n = 0; n < count; ++n) {
    const std::int32_t token = lane.job.task->tokens[token_at(lane, lane.position + n)];
    if (token < model().table_rows) {
      lane.gate[n] = weights.table.at(static_cast<std::size_t>(token) * model().row_bytes());
    } else {
      std::memcpy(x_.at(rows * width), model().embedding(token), width);
      out[rows++] = const_cast<void*>(lane.gate[n]);
    }
  }
  if (rows) compute(x_.data(), static_cast<std::ptrdiff_t>(width), rows, out);
}

void Lanes::fetch_outputs(Lane& lane, int count) {
  const std::size_t width = model().input_bytes(layer_);
  void* out[kChunk];
  for (int n = 0; n < count; ++n) {
    std::memcpy(x_.at(n * width), lane.job.task->below.at(token_at(lane, lane.position + n) * width), width);
    out[n] = const_cast<void*>(lane.gate[n]);
  }
  compute(x_.data(), static_cast<std::ptrdiff_t>(width), count, out);
}

void Lanes::compute(const void* x, std::ptrdiff_t stride, int rows, void* const* out) {
  const Shape& shape = model().shape;
  const Direction& weights = model().direction(layer_, direction_);
  const Product product{
      weights.w_ih.data(), shape.gates(), shape.blocks(), round_up(shape.inputs(layer_), kStateAlign), x, stride, rows};
  model().path.gate_inputs(product, weights.bias.floats(), out, scratch_.floats());
}

// Makes a lane's newest state no number, as a fault.
void Lanes::spoil(int row) {
  constexpr float none = std::numeric_limits<float>::quiet_NaN();
  model().path.encode(&none, 1, h_.at(static_cast<std::size_t>(row) * model().shape.columns() * model().path.element));
}

// Keeps the newest state of a lane where the layer above or the pooling will look for it.
void Lanes::keep(int row) {
  const Shape& shape = model().shape;
  const Lane& lane = lanes_[row];
  Task& task = *lane.job.task;
  const std::size_t element = model().path.element;
  const void* newest = h_.at(static_cast<std::size_t>(row) * shape.columns() * element);
  if (!task.last_layer()) {
    const std::size_t size = shape.state_size() * element;
    const std::size_t place = token_at(lane, lane.position) * model().input_bytes(layer_ + 1) + direction_ * size;
    std::memcpy(task.outputs.at(place), newest, size);
  } else if (token_at(lane, lane.position) == task.length() - 1) {
    for (std::size_t kind = 0; kind < shape.pooling.size(); ++kind)
      if (shape.pooling[kind] == Pooling::last_output)
        model().path.decode(newest, shape.state_size(), feature(lane, kind));
  }
}

void Lanes::pool(int row) {
  const Shape& shape = model().shape;
  const Lane& lane = lanes_[row];
  const int size = shape.state_size();
  const std::size_t outputs = static_cast<std::size_t>(row) * shape.state_blocks() * kBlock;
  for (std::size_t kind = 0; kind < shape.pooling.size(); ++kind) {
    float* to = feature(lane, kind);
    if (shape.pooling[kind] == Pooling::last) {
      model().path.decode(h_.at(static_cast<std::size_t>(row) * shape.columns() * model().path.element), size, to);
    } else if (shape.pooling[kind] == Pooling::max) {
      std::copy_n(max_.floats() + outputs, size, to);
    } else if (shape.pooling[kind] == Pooling::mean) {
      const auto length = static_cast<float>(lane.job.task->length());
      for (int unit = 0; unit < size; ++unit) to[unit] = sum_.floats()[outputs + unit] / length;
    }
  }
}

// Frees a lane: the last one moves into its row.
void Lanes::remove(int row) {
  const Shape& shape = model().shape;
  const auto to = static_cast<std::size_t>(row), from = static_cast<std::size_t>(rows() - 1);
  const auto move = [=](const Buffer& buffer, std::size_t width) {
    if (buffer.bytes() && from != to) std::memcpy(buffer.at(to * width), buffer.at(from * width), width);
  };
  move(h_, static_cast<std::size_t>(shape.columns()) * model().path.element);
  move(state_, shape.blocks() * kBlock * sizeof(float));
  move(max_, shape.state_blocks() * kBlock * sizeof(float));
  move(sum_, shape.state_blocks() * kBlock * sizeof(float));
  slots_.push_back(lanes_[to].slot);
  if (from != to) lanes_[to] = std::move(lanes_[from]);
  lanes_.pop_back();
}

// Where a kind of pooling puts this direction's part.
float* Lanes::feature(const Lane& lane, std::size_t kind) const {
  const Shape& shape = model().shape;
  return lane.job.task->features.data() + (kind * shape.num_directions + direction_) * shape.state_size();
}

}  // namespace lstmserve
