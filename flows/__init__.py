METAFLOW_PACKAGE_POLICY = "include"  # travels in the code package when a step runs on another machine
