"""Fragments of source code and configuration, from which `samples.py` writes files of known type.

A file is a head and a few fragments in random order. `$a`, `$b`, `$c` become words and `$n`, `$m` numbers, other
ones in every fragment. Keys are magika's names of the types.
"""

from __future__ import annotations

WRITTEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "shell": (
        "#!/usr/bin/env bash\nset -euo pipefail\n\n",
        (
            '$a=${$A:-$n}\nif [ "$#" -lt 1 ]; then\n  echo "usage: $0 $a" >&2\n  exit $m\nfi\n\n',
            'for $b in /var/$a/*.log; do\n  [ -f "$$b" ] || continue\n  gzip -9 "$$b"\n  echo "packed $$b"\ndone\n\n',
            '$a_$b() {\n  local $c="$1"\n  while read -r line; do\n    printf \'%s\\n\' "${line#$$c}"\n  done < "/etc/$b"\n}\n\n',
            'case "$1" in\n  $a) shift; exec $b "$@" ;;\n  --$c=*) export $C="${1#*=}" ;;\n  *) echo "unknown: $1" >&2; exit 2 ;;\nesac\n\n',
        ),
    ),
    "javascript": (
        "'use strict';\n\nconst fs = require('fs');\nconst path = require('path');\n\n",
        (
            "function $a$B(options) {\n  const $c = options.$c || $n;\n  return Object.keys(options).filter(k => k !== '$c').map((k) => ({ [k]: options[k] * $c }));\n}\n\n",
            "class $A extends $B {\n  constructor(...args) {\n    super(...args);\n    this.$c = new Map();\n  }\n\n  async $a(id) {\n    const found = await this.$c.get(id);\n    if (!found) throw new Error(`no $b: ${id}`);\n    return found;\n  }\n}\n\n",
            "module.exports.$a = async function $a(req, res, next) {\n  try {\n    const rows = await $b.find({ id: req.params.id });\n    res.json(rows);\n  } catch (err) {\n    next(err);\n  }\n};\n\n",
            "document.querySelectorAll('.$a').forEach((el) => {\n  el.addEventListener('click', (event) => {\n    event.preventDefault();\n    console.log('$b', $n);\n  });\n});\n\n",
        ),
    ),
    "typescript": (
        "import { Injectable } from '@angular/core';\nimport type { Observable } from 'rxjs';\n\n",
        (
            "export interface $A {\n  readonly id: number;\n  $b?: string;\n  $c: Array<$B>;\n}\n\n",
            "export class $A$B implements OnInit {\n  private readonly $c: Map<string, $A> = new Map();\n\n  constructor(private $a: $AService) {}\n\n  public get(id: string): $A | undefined {\n    return this.$c.get(id);\n  }\n}\n\n",
            "export type $A = '$b' | '$c' | { kind: '$a'; value: number };\n\nexport function is$A(x: unknown): x is $A {\n  return typeof x === 'string';\n}\n\n",
            "export enum $B {\n  $A = 'x$n',\n  $C = 'y$m',\n}\n\nexport const $a = async <T extends object>(input: Partial<T>): Promise<T> => {\n  return { ...($b as T), ...input };\n};\n\n",
        ),
    ),
    "go": (
        'package main\n\nimport (\n\t"context"\n\t"errors"\n\t"fmt"\n\t"net/http"\n)\n\n',
        (
            '// $A holds the $b.\ntype $A struct {\n\t$B  string `json:"$b"`\n\t$C  int    `json:"$c,omitempty"`\n\tmu sync.Mutex\n}\n\n',
            'func (s *$A) $B(ctx context.Context, id string) (*$C, error) {\n\tif id == "" {\n\t\treturn nil, errors.New("$b: no id")\n\t}\n\tselect {\n\tcase <-ctx.Done():\n\t\treturn nil, ctx.Err()\n\tdefault:\n\t}\n\treturn s.$c[id], nil\n}\n\n',
            'func $a$B(w http.ResponseWriter, r *http.Request) {\n\tfor i := 0; i < $n; i++ {\n\t\tfmt.Fprintf(w, "%d: %s\\n", i, r.URL.Path)\n\t}\n}\n\n',
            'const (\n\t$A = iota + $n\n\t$B\n)\n\nvar err$C = fmt.Errorf("$c failed: %w", errors.New("$a"))\n\n',
        ),
    ),
    "rust": (
        "use std::collections::HashMap;\nuse std::fmt;\n\n",
        (
            "#[derive(Debug, Clone, PartialEq)]\npub struct $A {\n    pub $b: String,\n    $c: Option<u64>,\n}\n\n",
            "impl fmt::Display for $A {\n    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {\n        write!(f, \"{}: {}\", self.$b, self.$c.unwrap_or($n))\n    }\n}\n\n",
            "pub fn $a_$b(input: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {\n    let mut out = Vec::with_capacity(input.len());\n    for (i, b) in input.iter().enumerate() {\n        match b {\n            b'\\n' => continue,\n            _ if i % $n == 0 => out.push(*b),\n            _ => {}\n        }\n    }\n    Ok(out)\n}\n\n",
            '#[cfg(test)]\nmod $a_tests {\n    use super::*;\n\n    #[test]\n    fn $b_is_$c() {\n        let mut map: HashMap<&str, i32> = HashMap::new();\n        map.insert("$c", $n);\n        assert_eq!(map["$c"], $n);\n    }\n}\n\n',
        ),
    ),
    "java": (
        "package com.example.app;\n\nimport java.util.List;\nimport java.util.Map;\nimport java.io.IOException;\n\n",
        (
            "public class $A extends $B implements Comparable<$A> {\n    private final String $c;\n    private static final int LIMIT = $n;\n\n    public $A(String $c) {\n        this.$c = $c;\n    }\n\n    @Override\n    public int compareTo($A other) {\n        return this.$c.compareTo(other.$c);\n    }\n}\n\n",
            "class $C {\n    public List<String> $a(Map<String, Integer> $b) throws IOException {\n        for (Map.Entry<String, Integer> entry : $b.entrySet()) {\n            if (entry.getValue() > $n) {\n                System.out.println(entry.getKey());\n            }\n        }\n        return new ArrayList<>($b.keySet());\n    }\n}\n\n",
            "/**\n * The $a of a $b.\n */\ninterface $A$B {\n    @Deprecated\n    default boolean is$C() {\n        return false;\n    }\n\n    void $c(final long $b) throws IllegalStateException;\n}\n\n",
        ),
    ),
    "ruby": (
        "# frozen_string_literal: true\n\nrequire 'json'\nrequire 'set'\n\n",
        (
            'module $A\n  class $B < StandardError\n    attr_reader :$c\n\n    def initialize($c)\n      @$c = $c\n      super("bad $a: #{$c}")\n    end\n  end\nend\n\n',
            "def $a_$b(items, limit: $n)\n  items.select { |i| i > limit }.map do |i|\n    { $c: i, at: Time.now }\n  end\nend\n\n",
            "describe $A do\n  it 'has $b' do\n    expect($A.new.$b).to eq(:$c)\n  end\nend\n\n",
            "unless ENV['$A'].nil?\n  puts \"$b: #{ENV.fetch('$A')}\"\n  %w[$a $b $c].each_with_index { |w, i| puts w if i.even? }\nend\n\n",
        ),
    ),
    "php": (
        "<?php\n\nnamespace App\\Services;\n\nuse InvalidArgumentException;\n\n",
        (
            "class $A extends $B\n{\n    private array $$c = [];\n\n    public function __construct(private readonly string $$a)\n    {\n        $this->$c = ['$b' => $n];\n    }\n}\n\n",
            "function $a_$b(array $$c): ?string\n{\n    foreach ($$c as $key => $value) {\n        if (!isset($value['$b'])) {\n            throw new InvalidArgumentException(\"no $b in {$key}\");\n        }\n    }\n    return implode(', ', array_keys($$c));\n}\n\n",
            "$$a = $_GET['$b'] ?? $n;\necho htmlspecialchars((string) $$a, ENT_QUOTES);\n$this->$c->save();\n\n",
        ),
    ),
    "lua": (
        "local M = {}\nlocal insert = table.insert\n\n",
        (
            'function M.$a($b, $c)\n  local out = {}\n  for i, v in ipairs($b) do\n    if v ~= nil and i % $n == 0 then\n      insert(out, v .. "$c")\n    end\n  end\n  return out\nend\n\n',
            "local $A = setmetatable({}, { __index = function(t, k)\n  return rawget(t, k) or $n\nend })\n$A.__index = $A\n\n",
            "function $A:new(o)\n  o = o or {}\n  setmetatable(o, self)\n  self.$b = #o + $m\n  return o\nend\n\n",
            "--- The $a of $b.\nif not M.$c then\n  print(string.format('%s: %d', '$a', $n))\nelseif type(M.$c) == 'table' then\n  M.$c = nil\nend\n\n",
        ),
    ),
    "perl": (
        "#!/usr/bin/perl\nuse strict;\nuse warnings;\n\n",
        (
            "sub $a_$b {\n    my ($self, %args) = @_;\n    my @found = grep { $_->{$c} > $n } @{ $self->{items} };\n    return wantarray ? @found : \\@found;\n}\n\n",
            "open(my $fh, '<', '/etc/$a') or die \"cannot open: $!\";\nwhile (my $line = <$fh>) {\n    chomp $line;\n    next if $line =~ /^\\s*#/;\n    my ($key, $value) = split /=/, $line, 2;\n    $$b{$key} = $value;\n}\nclose $fh;\n\n",
            "package $A::$B;\nour $VERSION = '$n.$m';\nour @ISA = qw(Exporter);\n\n1;\n\n",
        ),
    ),
    "sql": (
        "",
        (
            "CREATE TABLE $a (\n    id INTEGER PRIMARY KEY,\n    $b VARCHAR($n) NOT NULL,\n    $c TIMESTAMP DEFAULT CURRENT_TIMESTAMP,\n    CONSTRAINT fk_$b FOREIGN KEY ($b) REFERENCES $b (id)\n);\n\n",
            "INSERT INTO $a (id, $b, $c) VALUES ($n, '$b', NULL);\nINSERT INTO $a (id, $b, $c) VALUES ($m, '$c', NULL);\n\n",
            "SELECT t.$a, COUNT(*) AS total\nFROM $b AS t\nLEFT JOIN $c ON $c.id = t.$c_id\nWHERE t.$a > $n AND $c.name LIKE '%$b%'\nGROUP BY t.$a\nHAVING COUNT(*) > $m\nORDER BY total DESC;\n\n",
            "CREATE INDEX idx_$a_$b ON $a ($b);\nUPDATE $a SET $b = '$c' WHERE id = $n;\nDELETE FROM $c WHERE $a_id IS NULL;\n\n",
        ),
    ),
    "c": (
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\n",
        (
            "struct $a {\n    char *$b;\n    unsigned int $c;\n    struct $a *next;\n};\n\n",
            "static int $a_$b(const char *$c, size_t len)\n{\n    char buf[$n];\n    if (!$c || len > sizeof(buf))\n        return -1;\n    memcpy(buf, $c, len);\n    for (size_t i = 0; i < len; i++)\n        buf[i] ^= 0x$m;\n    return (int)len;\n}\n\n",
            "#ifndef $A_H\n#define $A_H $n\n#define $B(x) ((x) << $m)\n#endif\n\n",
            'int main(int argc, char **argv)\n{\n    struct $a *p = malloc(sizeof(*p));\n    if (p == NULL) {\n        fprintf(stderr, "$b: out of memory\\n");\n        return EXIT_FAILURE;\n    }\n    printf("%s %d\\n", argv[0], argc);\n    free(p);\n    return 0;\n}\n\n',
        ),
    ),
    "cpp": (
        "#include <iostream>\n#include <vector>\n#include <memory>\n\nnamespace app {\n\n",
        (
            "template <typename T>\nclass $A : public $B<T> {\n public:\n  explicit $A(std::vector<T> $c) : $c_(std::move($c)) {}\n  virtual ~$A() = default;\n\n private:\n  std::vector<T> $c_;\n};\n\n",
            "std::unique_ptr<$A> make_$a(const std::string& $b) {\n  auto out = std::make_unique<$A>();\n  for (const auto& c : $b) {\n    out->push_back(static_cast<int>(c) + $n);\n  }\n  return out;\n}\n\n",
            'std::ostream& operator<<(std::ostream& os, const $A& x) {\n  os << "$b: " << x.$c << std::endl;\n  return os;\n}\n\nconstexpr int k$B = $n;\n\n',
        ),
    ),
    "cs": (
        "using System;\nusing System.Collections.Generic;\nusing System.Linq;\n\nnamespace Example.App\n{\n",
        (
            '    public class $A : I$B\n    {\n        public string $C { get; set; } = "$c";\n        private readonly List<int> _$b = new List<int>();\n\n        public async Task<int> $BAsync(int $a)\n        {\n            await Task.Delay($n);\n            return _$b.Where(x => x > $a).Sum();\n        }\n    }\n\n',
            '    [Serializable]\n    internal sealed class $B$C\n    {\n        public event EventHandler<$A>? Changed;\n\n        public override string ToString() => $"{nameof($B)}: {Changed}";\n    }\n\n',
            "    public enum $A\n    {\n        $B = $n,\n        $C,\n    }\n\n    public static class $AExtensions\n    {\n        public static bool Is$B(this $A value) => value == $A.$B;\n    }\n\n",
        ),
    ),
    "kotlin": (
        "package com.example.app\n\nimport kotlinx.coroutines.flow.Flow\nimport kotlinx.coroutines.launch\n\n",
        (
            "data class $A(\n    val $b: String,\n    val $c: Int? = $n,\n)\n\n",
            'class $B(private val $a: $A) : $C() {\n    override fun onCreate(savedInstanceState: Bundle?) {\n        super.onCreate(savedInstanceState)\n        val $c by lazy { mutableListOf<String>() }\n        $c.forEach { println("$b: $it") }\n    }\n}\n\n',
            'sealed interface $A {\n    object $B : $A\n    data class $C(val value: Long) : $A\n}\n\nfun $A.$a(): String = when (this) {\n    is $A.$B -> "$b"\n    is $A.$C -> value.toString()\n}\n\n',
            'suspend fun $a(id: String): Result<$A> = runCatching {\n    requireNotNull($b[id]) { "no $b" }\n}\n\n',
        ),
    ),
    "swift": (
        "import Foundation\nimport UIKit\n\n",
        (
            "struct $A: Codable, Equatable {\n    let $b: String\n    var $c: Int? = $n\n}\n\n",
            'final class $B: UIViewController {\n    private let $c: $A\n\n    init($c: $A) {\n        self.$c = $c\n        super.init(nibName: nil, bundle: nil)\n    }\n\n    override func viewDidLoad() {\n        super.viewDidLoad()\n        guard let found = $a($n) else { return }\n        print("$b: \\(found)")\n    }\n}\n\n',
            'extension $A {\n    func $a(_ x: Int) throws -> [String] {\n        return (0..<x).map { "\\($0)" }\n    }\n}\n\n',
            'enum $C: String, CaseIterable {\n    case $a\n    case $b = "x$n"\n}\n\n',
        ),
    ),
    "powershell": (
        "#Requires -Version 5.1\n[CmdletBinding()]\nparam(\n    [Parameter(Mandatory = $true)]\n    [string]$Path\n)\n\n",
        (
            "function Get-$A$B {\n    param([string]$$c, [int]$Limit = $n)\n    Get-ChildItem -Path $$c -Recurse | Where-Object { $_.Length -gt $Limit } | ForEach-Object {\n        Write-Output $_.FullName\n    }\n}\n\n",
            'if (-not (Test-Path $Path)) {\n    Write-Error "no $a at $Path"\n    exit $m\n}\n\n',
            'try {\n    $$a = Invoke-RestMethod -Uri "https://example.com/$b" -Method Get\n    $$a | ConvertTo-Json -Depth $n | Set-Content -Path "$c.json"\n} catch {\n    Write-Warning $_.Exception.Message\n}\n\n',
        ),
    ),
    "batch": (
        "@echo off\r\nsetlocal enabledelayedexpansion\r\n\r\n",
        (
            'set $A=%~dp0$b\r\nif not exist "%$A%" (\r\n    echo no $a\r\n    exit /b $n\r\n)\r\n\r\n',
            'for /f "tokens=1,2 delims==" %%a in ($b.ini) do (\r\n    set %%a=%%b\r\n)\r\n\r\n',
            ":$a\r\nrem the $b\r\ncall :$c %1 %2\r\ngoto :eof\r\n\r\n",
            "copy /y %$B%\\*.dll C:\\$a\\ >nul\r\nif errorlevel 1 goto $c\r\ndel /q %TEMP%\\$b.tmp\r\n\r\n",
        ),
    ),
    "makefile": (
        "CC ?= gcc\nCFLAGS += -O2 -Wall\n\n.PHONY: all clean\n\nall: build\n\n",
        (
            "$a: $a.o $b.o\n\t$(CC) $(CFLAGS) -o $@ $^ -l$c\n\n%.o: %.c\n\t$(CC) $(CFLAGS) -c $< -o $@\n\n",
            "clean:\n\trm -f $a *.o $(BUILD)/$b\n\n",
            "ifeq ($($A),$n)\n$B := $(shell find src -name '*.c')\nendif\n\n",
            "install-$a: $b\n\tinstall -m 0755 $b $(DESTDIR)$(PREFIX)/bin/$c\n\t@echo done\n\n",
        ),
    ),
    "dockerfile": (
        "FROM debian:bookworm-slim AS build\n\n",
        (
            "RUN apt-get update && apt-get install -y --no-install-recommends \\\n    $a \\\n    lib$b-dev \\\n    && rm -rf /var/lib/apt/lists/*\n\n",
            "WORKDIR /$a\nCOPY --chown=$b:$b $c/ ./$c/\nENV $A=$n\n\n",
            "ARG $B=$m\nRUN useradd -r $a && mkdir -p /var/$b && make -j$n $c\n\n",
            'EXPOSE 80$n\nUSER $a\nHEALTHCHECK CMD curl -f http://localhost:80$n/ || exit 1\nENTRYPOINT ["/usr/bin/$b"]\nCMD ["--$c", "$m"]\n\n',
        ),
    ),
    "cmake": (
        "cmake_minimum_required(VERSION 3.16)\nproject(example LANGUAGES C CXX)\n\n",
        (
            "add_library($a STATIC src/$a.cpp src/$b.cpp)\ntarget_include_directories($a PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/include)\ntarget_link_libraries($a PRIVATE $c::$c)\n\n",
            'option($A_ENABLE_$B "Build the $b" ON)\nif($A_ENABLE_$B)\n  find_package($C $n REQUIRED)\n  add_subdirectory($b)\nendif()\n\n',
            'set(CMAKE_CXX_STANDARD 17)\nforeach(name IN ITEMS $a $b $c)\n  message(STATUS "with ${name}")\nendforeach()\n\n',
            "install(TARGETS $a DESTINATION lib)\nadd_test(NAME $b COMMAND $a --$c $n)\n\n",
        ),
    ),
    "ini": (
        "; settings\n",
        (
            "[$a]\n$b = $n\n$c = /var/lib/$a\nenabled = true\n\n",
            "[$b.$c]\n# the $a\nhost=localhost\nport=80$n\nuser=$a\npassword=\n\n",
            "[$C]\nTimeout=$n\nRetries=$m\nPath=C:\\$a\\$b\n\n",
        ),
    ),
    "toml": (
        'title = "example"\n\n',
        (
            '[$a]\n$b = "$c"\nports = [80$n, 90$m]\nenabled = true\n\n',
            '[[$b]]\nname = "$a"\nversion = "$n.$m.0"\ndependencies = [\n "$c",\n]\n\n',
            '[$a.$b]\n$c = { version = "^$n.$m", features = ["$a"] }\nlast = 2026-01-$m\n\n',
        ),
    ),
    "yaml": (
        "---\n",
        (
            '$a:\n  $b: $n\n  $c:\n    - name: $a\n      value: "$m"\n    - name: $b\n      value: true\n\n',
            "apiVersion: v1\nkind: $A\nmetadata:\n  name: $b\n  labels:\n    app: $c\nspec:\n  replicas: $n\n---\n",
            '# the $a\n$b_$c:\n  image: registry.example.com/$a:$n.$m\n  command: ["$b", "--$c"]\n  environment:\n    $A: |\n      several\n      lines\n\n',
        ),
    ),
    "css": (
        '@charset "utf-8";\n\n',
        (
            ".$a > .$b:hover {\n  color: #a$n0f;\n  margin: 0 auto;\n  padding: $npx $mpx;\n}\n\n",
            "@media (max-width: 7$npx) {\n  #$a, .$b::before {\n    display: none;\n    font-size: 1.$mem;\n  }\n}\n\n",
            'a.$c {\n  text-decoration: none;\n  background: url("../img/$b.png") no-repeat;\n  transition: all .$ns ease-in;\n}\n\n',
        ),
    ),
    "latex": (
        "\\documentclass[11pt]{article}\n\\usepackage{amsmath}\n\\begin{document}\n\n",
        (
            "\\section{The $a of $b}\nLet $x_{$n}$ be the $c, see~\\cite{$a$m}.\n\\begin{equation}\n  f(x) = \\sum_{i=1}^{$n} \\frac{x_i}{\\alpha + $m}\n\\end{equation}\n\n",
            "\\begin{itemize}\n  \\item the \\emph{$a};\n  \\item the $b, where \\textbf{$c} holds.\n\\end{itemize}\n\n",
            "\\begin{figure}[ht]\n  \\centering\n  \\includegraphics[width=0.$n\\textwidth]{$a.pdf}\n  \\caption{The $b.}\\label{fig:$c}\n\\end{figure}\n\n",
        ),
    ),
    "r": (
        "library(ggplot2)\nlibrary(dplyr)\n\n",
        (
            "$a <- function($b, $c = $n) {\n  out <- lapply(seq_along($b), function(i) $b[[i]] + $c)\n  names(out) <- names($b)\n  return(out)\n}\n\n",
            '$a <- read.csv("$b.csv", stringsAsFactors = FALSE)\nsummary($a$$c)\nfit <- lm($c ~ $b, data = $a)\nprint(anova(fit))\n\n',
            "$b %>%\n  filter($a > $n, !is.na($c)) %>%\n  group_by($c) %>%\n  summarise(mean = mean($a), sd = sd($a))\n\nggplot($b, aes(x = $a, y = $c)) + geom_point()\n\n",
        ),
    ),
}  # fmt: skip
