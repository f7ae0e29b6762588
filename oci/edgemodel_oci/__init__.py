"""OCI image layouts and registries: deterministic packing, push, pull by digest with resume. Shared by all roles."""
