// dockerode also reaches daemons over SSH. The client for that would be compiled when Shoal is installed, and loaded with every driver.
exports.Client = class {
  constructor() {
    throw new Error('Shoal speaks to docker through its socket, not over SSH')
  }
}
