// Turns a processor's fault inside a kernel into a fault of the launch.
#pragma once

namespace softgpu {

// While one lives, the calling thread has a stack for signal handlers and the handlers are in place.
class SignalStack {
  public:
    SignalStack();
    ~SignalStack();
    SignalStack(const SignalStack&) = delete;
    SignalStack& operator=(const SignalStack&) = delete;

  private:
    void* memory_ = nullptr;
};

}  // namespace softgpu
