// ExecuTorch behind a few C functions, which executorch_native.py calls: no torch, no Python.
//
// Compiled against the headers of the executorch wheel, and linked to its libraries.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/extension/threadpool/threadpool_guard.h>

// Of a header that the wheel does not have.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

#define EXPORTED extern "C" __attribute__((visibility("default")))

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::BufferDataLoader;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::extension::threadpool::NoThreadPoolGuard;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Program;

namespace {

struct Loaded {
  std::unique_ptr<Module> module;
  std::string method;
  std::vector<TensorPtr> tensors;
  std::vector<EValue> inputs;
  std::vector<EValue> outputs;
};

// No exception may reach the caller, who is not C++.
template <typename Call>
uint32_t guarded(Call call) noexcept {
  try {
    // The step runs on the caller's thread, whatever else of the process uses ExecuTorch's pool.
    NoThreadPoolGuard one_thread;
    return static_cast<uint32_t>(call());
  } catch (...) {
    return static_cast<uint32_t>(Error::Internal);
  }
}

}  // namespace

EXPORTED const char* pocketfl_executorch_version() {
  return POCKETFL_EXECUTORCH_VERSION;
}

// Makes the process's pool, which asks for as many threads as there are cores, one of one thread.
EXPORTED uint32_t pocketfl_start() {
  return guarded([] {
    auto* pool = executorch::extension::threadpool::get_threadpool();
    return pool != nullptr && pool->_unsafe_reset_threadpool(1) ? Error::Ok : Error::Internal;
  });
}

// Loads one method. The bytes are read for as long as it lives; they must outlive it.
EXPORTED uint32_t pocketfl_load(const void* program, size_t size, const char* method, void** loaded) {
  return guarded([&] {
    auto made = std::make_unique<Loaded>();
    made->method = method;
    made->module = std::make_unique<Module>(std::make_unique<BufferDataLoader>(program, size));
    Error error = made->module->load(Program::Verification::InternalConsistency);
    if (error == Error::Ok) {
      error = made->module->load_method(made->method);
    }
    if (error == Error::Ok) {
      *loaded = made.release();
    }
    return error;
  });
}

// Adds the method's next input: an array of the caller's, which is read at each run.
EXPORTED uint32_t
pocketfl_bind(void* loaded, void* data, int8_t dtype, size_t rank, const int32_t* sizes) {
  return guarded([&] {
    auto* program = static_cast<Loaded*>(loaded);
    std::vector<SizesType> shape(sizes, sizes + rank);
    program->tensors.push_back(
        executorch::extension::from_blob(data, std::move(shape), static_cast<ScalarType>(dtype)));
    program->inputs.emplace_back(program->tensors.back());
    return Error::Ok;
  });
}

// Runs the method, and says where its outputs are until the next run. They have to be tensors of the
// sizes, in bytes, that the caller expects.
EXPORTED uint32_t
pocketfl_run(void* loaded, size_t count, const size_t* bytes, const void** outputs) {
  return guarded([&] {
    auto* program = static_cast<Loaded*>(loaded);
    auto result = program->module->execute(program->method, program->inputs);
    if (!result.ok()) {
      return result.error();
    }
    program->outputs = std::move(*result);
    if (program->outputs.size() != count) {
      return Error::InvalidState;
    }
    for (size_t i = 0; i < count; ++i) {
      const EValue& output = program->outputs[i];
      if (!output.isTensor() || output.toTensor().nbytes() != bytes[i]) {
        return Error::InvalidType;
      }
      outputs[i] = output.toTensor().const_data_ptr();
    }
    return Error::Ok;
  });
}

EXPORTED void pocketfl_close(void* loaded) {
  guarded([&] {
    delete static_cast<Loaded*>(loaded);
    return Error::Ok;
  });
}
