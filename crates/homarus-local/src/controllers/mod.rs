//! The controllers a cluster cannot do without: what turns Deployments into pods and Services into endpoints.
