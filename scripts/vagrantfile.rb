# Evaluates the Vagrantfile without Vagrant and fails when it is not what it promises: a
# pinned box of Debian's, provisioned by scripts of this repository and targets of its
# Makefile, the same for every provider.

# Setting records what is assigned to it and called on it; what it has not heard of is a
# group of settings.
class Setting
  attr_reader :values, :calls, :groups

  def initialize
    @values = {}
    @calls = []
    @groups = Hash.new { |groups, name| groups[name] = Setting.new }
  end

  def method_missing(name, *arguments, **options, &block)
    if name.end_with?("=")
      @values[name.to_s.chomp("=").to_sym] = arguments.first
    elsif arguments.empty? && block.nil?
      @groups[name]
    else
      @calls << [name, *arguments, options]
      block&.call(@groups[arguments.first])
    end
  end

  def respond_to_missing?(*) = true
end

module Vagrant
  def self.configure(version)
    raise "configuration version #{version}, want 2" unless version == "2"

    yield CONFIG
  end
  CONFIG = Setting.new
end

root = File.expand_path("..", __dir__)
load File.join(root, "Vagrantfile")
vm = Vagrant::CONFIG.groups[:vm]
problems = []

problems << "box #{vm.values[:box]}: want one of debian/" unless vm.values[:box]&.start_with?("debian/")
problems << "box_version #{vm.values[:box_version]}: want one version" unless vm.values[:box_version] =~ /\A\d+(\.\d+)+\z/

steps = vm.calls.select { |name, *| name == :provision }.map(&:last)
problems << "nothing is provisioned" if steps.empty?
targets = File.read(File.join(root, "Makefile")).scan(/^([a-z-]+):/).flatten
steps.each do |step|
  script, command = step.values_at(:path, :inline)
  problems << "#{script} is no executable file" if script && !File.executable?(File.join(root, script))
  target = command&.slice(/\Amake -C \/vagrant ([a-z-]+)\z/, 1)
  problems << "#{command}: want a script of the repository or a target of its Makefile" if command && !targets.include?(target)
end

sizes = vm.calls.select { |name, *| name == :provider }.to_h { |_, name, *| [name, vm.groups[name].values.slice(:cpus, :memory)] }
problems << "providers differ or lack cpus or memory: #{sizes}" unless sizes.values.uniq.size == 1 && sizes.values.first.size == 2

problems.each { |problem| warn "Vagrantfile: #{problem}" }
exit problems.empty?
