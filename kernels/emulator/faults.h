// A kernel's memory fault becomes a failed launch instead of the end of the process. Part of
// scheduler.cpp.
#pragma once
#include <csignal>

#include "emulator/unit.h"

namespace emulator {

namespace {

thread_local Unit* running_unit = nullptr;  // of this host thread
struct sigaction handler_before[2];         // of SIGSEGV and SIGBUS
std::mutex handler_guard;
unsigned handler_users = 0;

void on_fault(int signal, siginfo_t* info, void* context) {
  if (running_unit && running_unit->current) {
    if (info->si_code == SI_KERNEL)  // a general protection fault has no address
      fail("memory fault: a 16-byte access that is not aligned, or a wild pointer");
    failf("memory fault at %p, outside of every allocation", info->si_addr);
  }
  const struct sigaction& before = handler_before[signal == SIGBUS];
  if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
  std::signal(signal, SIG_DFL);  // the faulting instruction is run again, and ends the process
}

// Installed while a launch runs. The handler uses the fiber's stack and leaves it by a switch.
class FaultHandler {
 public:
  FaultHandler() {
    std::lock_guard lock(handler_guard);
    if (handler_users++) return;
    struct sigaction ours {};
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &ours, &handler_before[0]);
    sigaction(SIGBUS, &ours, &handler_before[1]);
  }
  ~FaultHandler() {
    std::lock_guard lock(handler_guard);
    if (--handler_users) return;
    struct sigaction now {};
    sigaction(SIGSEGV, nullptr, &now);
    if (now.sa_sigaction == on_fault) sigaction(SIGSEGV, &handler_before[0], nullptr);
    sigaction(SIGBUS, nullptr, &now);
    if (now.sa_sigaction == on_fault) sigaction(SIGBUS, &handler_before[1], nullptr);
  }
  FaultHandler(const FaultHandler&) = delete;
};

}  // namespace

}  // namespace emulator
