// The Python module service.engine._core: checks arrays, lets go of the interpreter lock, calls.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <stdexcept>
#include <string>

#include "cpu.h"
#include "engine.h"
#include "fault.h"

namespace nb = nanobind;

namespace lstmserve {
namespace {

using Array = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

template <class Value>
Value named(const std::map<std::string, Value>& values, const std::string& name, const char* what) {
  const auto found = values.find(name);
  if (found == values.end()) throw std::invalid_argument(std::string(what) + " '" + name + "' is not known");
  return found->second;
}

const Path& path_named(const std::string& name) {
  for (const Path* path : paths())
    if (name == path->name) return *path;
  throw std::invalid_argument("path '" + name + "' is not to be had on this processor");
}

Shape shape_of(const nb::dict& sizes) {
  static const std::map<std::string, Cell> cells{
      {"lstm", Cell::lstm}, {"gru", Cell::gru}, {"rnn_tanh", Cell::rnn_tanh}, {"rnn_relu", Cell::rnn_relu}};
  static const std::map<std::string, Pooling> poolings{
      {"last", Pooling::last}, {"last_output", Pooling::last_output}, {"max", Pooling::max}, {"mean", Pooling::mean}};
  const auto size = [&](const char* name) { return nb::cast<int>(sizes[name]); };
  Shape shape{named(cells, nb::cast<std::string>(sizes["cell"]), "cell"),
              size("vocab_size"),
              size("embedding_dim"),
              size("hidden_size"),
              size("num_layers"),
              size("num_directions"),
              size("proj_size"),
              {},
              size("num_logits")};
  for (const auto& kind : nb::cast<std::vector<std::string>>(sizes["pooling"]))
    shape.pooling.push_back(named(poolings, kind, "pooling"));
  shape.check();
  return shape;
}

// The tensors of a dict by torch's names, checked; what they point to stays while this object does.
class Tensors {
 public:
  explicit Tensors(const nb::dict& arrays) : arrays_(arrays) {}

  const float* get(const std::string& name, std::vector<int> shape) {
    if (!arrays_.contains(name.c_str())) throw std::invalid_argument("there is no tensor " + name);
    Array array;
    if (!nb::try_cast(arrays_[name.c_str()], array, false))
      throw std::invalid_argument(name + " must be a C-contiguous float32 array");
    bool same = array.ndim() == shape.size();
    for (std::size_t n = 0; same && n < shape.size(); ++n) same = array.shape(n) == static_cast<std::size_t>(shape[n]);
    if (!same) throw std::invalid_argument(name + " does not have the shape that the sizes ask for");
    kept_.push_back(array);
    return array.data();
  }

  const float* optional(const std::string& name, std::vector<int> shape) {
    return arrays_.contains(name.c_str()) ? get(name, std::move(shape)) : nullptr;
  }

 private:
  const nb::dict& arrays_;
  std::vector<Array> kept_;
};

Weights weights_of(const Shape& s, Tensors& tensors) {
  Weights weights{};
  weights.embedding = tensors.get("embedding.weight", {s.vocab_size, s.embedding_dim});
  const int rows = s.gates() * s.hidden_size;
  for (int layer = 0; layer < s.num_layers; ++layer)
    for (int direction = 0; direction < s.num_directions; ++direction) {
      const std::string suffix = "l" + std::to_string(layer) + (direction ? "_reverse" : "");
      weights.directions.push_back({
          tensors.get("rnn.weight_ih_" + suffix, {rows, s.inputs(layer)}),
          tensors.get("rnn.weight_hh_" + suffix, {rows, s.state_size()}),
          tensors.optional("rnn.bias_ih_" + suffix, {rows}),
          tensors.optional("rnn.bias_hh_" + suffix, {rows}),
          s.proj_size ? tensors.get("rnn.weight_hr_" + suffix, {s.proj_size, s.hidden_size}) : nullptr,
      });
    }
  weights.linear = tensors.get("linear.weight", {s.num_logits, s.feature_size()});
  weights.linear_bias = tensors.get("linear.bias", {s.num_logits});
  return weights;
}

// A model as Python holds it. The engine's threads share the model itself: they never need the interpreter lock to let
// go of it.
struct ModelHandle {
  std::shared_ptr<const Model> model;
};

void make_model(ModelHandle* self, const std::string& path, const nb::dict& sizes, const nb::dict& arrays,
                int table_rows, int threads) {
  Shape shape = shape_of(sizes);
  Tensors tensors(arrays);
  const Weights weights = weights_of(shape, tensors);
  std::shared_ptr<const Model> model;
  {
    const nb::gil_scoped_release released;
    model = std::make_shared<const Model>(path_named(path), std::move(shape), weights, table_rows, threads);
  }
  new (self) ModelHandle{std::move(model)};
}

std::size_t row_bytes(const std::string& path, const nb::dict& sizes) {
  const Shape shape = shape_of(sizes);
  return shape.num_directions * shape.row() * path_named(path).row;
}

// An engine as Python holds it, likewise: closed with it, and gone when its last thread has ended.
struct EngineHandle {
  EngineHandle(int threads, int lanes, int bell) : engine(Engine::make(threads, lanes, bell)) {}
  EngineHandle(const EngineHandle&) = delete;
  ~EngineHandle() { engine->close(); }

  const std::shared_ptr<Engine> engine;
};

nb::list collect(EngineHandle& self) {
  nb::list results;
  for (const Result& result : self.engine->collect())
    results.append(nb::make_tuple(result.ticket, static_cast<int>(result.ending), result.started, result.logits));
  return results;
}

#if defined(LSTMSERVE_FAULTS)
void bind_faults(nb::module_& module) {
  using namespace nb::literals;
  static const std::map<std::string, Point> points{{"start", Point::start},
                                                   {"place", Point::place},
                                                   {"step", Point::step},
                                                   {"advance", Point::advance},
                                                   {"head", Point::head}};
  static const std::map<std::string, Fault> faults{{"no_memory", Fault::no_memory},
                                                   {"error", Fault::error},
                                                   {"not_finite", Fault::not_finite},
                                                   {"hang", Fault::hang}};
  module.def(
      "inject",
      [](const std::string& point, std::int32_t token, const std::string& fault) {
        inject(named(points, point, "point"), token, named(faults, fault, "fault"));
      },
      "point"_a, "token_id"_a, "fault"_a);
  module.def("met", &met);
  module.def("release", &release, "token_id"_a);
}
#endif

}  // namespace
}  // namespace lstmserve

NB_MODULE(_core, module) {
  using namespace lstmserve;
  using namespace nb::literals;

  nb::set_leak_warnings(false);  // at the end of a process Python frees what it likes
  module.doc() = "The native engine: see native/ for what each thing does.";
  module.def(
      "paths",
      [] {
        nb::list found;
        for (const Path* path : paths()) found.append(nb::make_tuple(path->name, path->precision));
        return found;
      },
      "Names and precisions of the instruction set paths that this processor has, the fastest first.");
  module.def("row_bytes", &row_bytes, "path"_a, "sizes"_a, "Bytes that the tables take for one token id.");

  nb::class_<ModelHandle>(module, "Model", nb::is_weak_referenceable(),
                          "A classifier's weights, made ready for one path.")
      .def(
          "__init__", &make_model, "path"_a, "sizes"_a, "weights"_a, "table_rows"_a, "threads"_a,
          "`sizes` and float32 `weights` as in models.config; `table_rows` token ids get their gate inputs folded into "
          "tables. Raises ValueError.");

  nb::enum_<Ending>(module, "Ending", nb::is_arithmetic())
      .value("DONE", Ending::done)
      .value("CANCELLED", Ending::cancelled)
      .value("OVERDUE", Ending::overdue)
      .value("NOT_FINITE", Ending::not_finite)
      .value("NO_MEMORY", Ending::no_memory)
      .value("LOST", Ending::lost);

#if defined(LSTMSERVE_FAULTS)
  bind_faults(module);
#endif

  nb::class_<EngineHandle>(module, "Engine", "Threads that step sequences.")
      .def(nb::init<int, int, int>(), "threads"_a, "lanes"_a, "bell"_a,
           "A byte is written to the file descriptor `bell` when there are results where there were none.")
      .def(
          "start",
          [](EngineHandle& self, const ModelHandle& handle, std::vector<std::int32_t> tokens, double deadline) {
            return self.engine->start(handle.model, std::move(tokens), deadline);
          },
          "model"_a, "token_ids"_a, "deadline"_a,
          "Ticket of a sequence that is to be done by `deadline` (monotonic seconds). Raises ValueError.")
      .def(
          "cancel", [](EngineHandle& self, std::uint64_t ticket) { self.engine->cancel(ticket); }, "ticket"_a,
          nb::call_guard<nb::gil_scoped_release>())
      .def("collect", &collect, "(ticket, ending, started, logits) of each sequence that has come to its end.")
      .def(
          "work",
          [](const EngineHandle& self) {
            const Work work = self.engine->work();
            return nb::make_tuple(work.steps, work.lane_steps);
          },
          "Steps of all threads since the start, and the lanes that were live in them, summed; never blocks.")
      .def(
          "pulses",
          [](const EngineHandle& self) {
            nb::list pulses;
            for (const Pulse& pulse : self.engine->pulses()) pulses.append(nb::make_tuple(pulse.beats, pulse.busy));
            return pulses;
          },
          "(beats, busy) of each thread; never blocks.")
      .def(
          "failures", [](const EngineHandle& self) { return self.engine->failures(); },
          "Threads that failed and began anew since the start; never blocks.")
#if defined(LSTMSERVE_FAULTS)
      .def(
          "counts", [](EngineHandle& self) { return nb::make_tuple(self.engine->live(), self.engine->held()); },
          "Jobs that have lanes, and sequences that have not ended.")
#endif
      .def(
          "close", [](EngineHandle& self) { return self.engine->close(); }, nb::call_guard<nb::gil_scoped_release>(),
          "False: a thread is stuck, and left to itself.");
}
